"""`pe rm` and `pe rename`."""

from __future__ import annotations

from plugengine.cli.app import App
from plugengine.cli.command import argument, command, switch
from plugengine.errors import NotFoundError


@command(
    switch("-f", "--force", help="Kill those that run, do without a driver that fails; no error if there is none."),
    switch("-v", "--volumes", help="Remove their anonymous volumes too."),
    argument("containers", many=True, metavar="CONTAINER..."),
)
def rm(app: App, containers: tuple[str, ...], *, force: bool, volumes: bool) -> int:
    """Remove containers."""

    def remove(reference: str) -> str | None:
        try:
            warnings = app.engine.containers.remove(reference, force=force, volumes=volumes)
        except NotFoundError as exc:
            if not force:
                raise
            app.say(exc)
            return None
        for warning in warnings:
            app.warn(warning)
        return reference

    return app.each(containers, remove)


@command(argument("container"), argument("name", metavar="NEW_NAME"))
def rename(app: App, container: str, name: str) -> None:
    """Give a container another name."""
    app.engine.containers.rename(container, name)

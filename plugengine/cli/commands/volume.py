"""`pe volume create`, `ls` and `rm`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from plugengine.cli.app import App
from plugengine.cli.command import argument, command, option, options, switch
from plugengine.cli.filters import has_label, parse_filters
from plugengine.cli.formatting import show_rows
from plugengine.cli.parse.environment import resolve_labels
from plugengine.cli.parse.quantities import parse_choice
from plugengine.errors import NotFoundError

HEADINGS: Final[Mapping[str, str]] = {
    "Driver": "DRIVER",
    "Name": "VOLUME NAME",
    "Mountpoint": "MOUNTPOINT",
    "Labels": "LABELS",
    "Scope": "SCOPE",
}
_LOCAL: Final = "local"


@command(
    option("-d", "--driver", metavar="local", help="The only one there is."),
    options("--label", metavar="KEY[=VALUE]", help="Label the volume."),
    argument("name", required=False, metavar="[NAME]"),
)
def create(app: App, name: str | None, *, driver: str | None, label: tuple[str, ...]) -> None:
    """Make a volume, and print its name; one that is there already is fine."""
    parse_choice("--driver", driver or _LOCAL, (_LOCAL, "default"))
    app.line(app.engine.volumes.create(name, labels=resolve_labels(label, ())).name)


@command(
    switch("-q", "--quiet", help="Names only."),
    options("-f", "--filter", metavar="KEY=VALUE", help="name or label."),
    option("--format", metavar="TEMPLATE", help="table, json, or a Go template."),
)
def ls(app: App, *, quiet: bool, filter: tuple[str, ...], format: str | None) -> None:  # noqa: A002 - the flags' names
    """List volumes."""
    wanted = parse_filters(filter, ("name", "label"), example="label=team=web")
    lines = [
        {
            "Driver": _LOCAL,
            "Name": volume.name,
            "Mountpoint": app.engine.volumes.directory(volume.name),
            "Labels": ",".join(f"{key}={value}" for key, value in sorted(volume.labels.items())),
            "Scope": _LOCAL,
        }
        for volume in app.engine.volumes.list()
        if all(has_label(volume.labels, text) for text in wanted.get("label", []))
        and (not wanted.get("name") or any(text in volume.name for text in wanted["name"]))
    ]
    show_rows(
        app.write,
        lines,
        columns=("Driver", "Name"),
        headings=HEADINGS,
        template=format,
        quiet="Name" if quiet else None,
    )


@command(
    switch("-f", "--force", help="One that is not there is no error."),
    argument("names", many=True, metavar="VOLUME..."),
)
def rm(app: App, names: tuple[str, ...], *, force: bool) -> int:
    """Remove volumes that no container uses."""

    def remove(name: str) -> str | None:
        try:
            app.engine.volumes.remove(name)
        except NotFoundError:
            if not force:
                raise
            return None
        return name

    return app.each(names, remove)

"""`pe start`."""

from __future__ import annotations

from plugengine.cli.app import App
from plugengine.cli.command import argument, command, switch
from plugengine.cli.container_options import detach_keys_option, sig_proxy_option
from plugengine.cli.parse.errors import CommandLineError


@command(
    switch("-a", "--attach", help="Connect standard output and error."),
    switch("-i", "--interactive", help="Connect standard input too."),
    detach_keys_option(),
    sig_proxy_option(),
    argument("containers", many=True, metavar="CONTAINER..."),
)
def start(
    app: App,
    containers: tuple[str, ...],
    *,
    attach: bool,
    interactive: bool,
    detach_keys: str | None,
    sig_proxy: bool | None,
) -> int:
    """Start containers that were created or have ended."""
    if not (attach or interactive):

        def begin(reference: str) -> str:
            if (
                app.engine.containers.get(reference).status != "running"
            ):  # to start what runs is no error, as with docker
                app.engine.containers.start(reference, debug=app.debug, log=app.log, warn=app.warn)
            return reference

        return app.each(containers, begin)
    if len(containers) != 1:
        raise CommandLineError("--attach: one container at a time", hint=f"pe start -a {containers[0]}")
    from plugengine.cli.connection import conclude, make_streams

    row = app.engine.containers.get(containers[0])
    streams = make_streams(
        stdin=interactive and row.spec.interactive,
        tty=row.spec.tty,
        detach_keys=detach_keys,
        proxy=sig_proxy is not False,
    )
    outcome = app.engine.containers.start(row.id, streams=streams, debug=app.debug, log=app.log, warn=app.warn)
    assert outcome is not None  # noqa: S101 - streams were given
    return conclude(app, row, outcome)

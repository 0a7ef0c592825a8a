"""`pe attach`."""

from __future__ import annotations

from plugengine.cli.app import App
from plugengine.cli.command import argument, command, switch
from plugengine.cli.connection import conclude, make_streams
from plugengine.cli.container_options import detach_keys_option, sig_proxy_option


@command(
    switch("--no-stdin", help="Do not connect standard input."),
    detach_keys_option(),
    sig_proxy_option(),
    argument("container"),
)
def attach(app: App, container: str, *, no_stdin: bool, detach_keys: str | None, sig_proxy: bool | None) -> int:
    """Connect to a running container's streams until it ends or the detach keys are pressed."""
    row = app.engine.containers.get(container)
    streams = make_streams(
        stdin=row.spec.interactive and not no_stdin,
        tty=row.spec.tty,
        detach_keys=detach_keys,
        proxy=sig_proxy is not False,
    )
    return conclude(app, row, app.engine.containers.attach(row.id, streams))

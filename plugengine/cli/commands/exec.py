"""`pe exec`."""

from __future__ import annotations

from typing import Any

from plugengine.cli.app import App
from plugengine.cli.command import argument, command, option, options, rest_of_line, switch
from plugengine.cli.connection import make_streams
from plugengine.cli.container_options import detach_keys_option
from plugengine.cli.spec import exec_spec


@command(
    switch("-d", "--detach", help="Leave it running in the background."),
    switch("-i", "--interactive", help="Connect standard input."),
    switch("-t", "--tty", help="Give the command a terminal."),
    options("-e", "--env", metavar="NAME[=VALUE]", help="Set a variable; NAME alone takes the caller's value."),
    options("--env-file", metavar="FILE", help="Set the variables of a file, one NAME=VALUE a line."),
    option("-u", "--user", metavar="USER[:GROUP]", help="Names (of the image) or numbers."),
    option("-w", "--workdir", metavar="DIR", help="Working directory inside."),
    switch("--privileged", help="Give every capability."),
    detach_keys_option(),
    argument("container"),
    rest_of_line("words", required=True, metavar="COMMAND [ARG]..."),
    interspersed=False,
)
def exec_(app: App, container: str, words: tuple[str, ...], **values: Any) -> int:
    """Run another command in a running container; the exit code is the command's own."""
    spec = exec_spec(words, values, app.environ)
    if spec.detach:
        app.engine.containers.exec(container, spec)
        return 0
    streams = make_streams(stdin=spec.interactive, tty=spec.tty, detach_keys=values["detach_keys"], proxy=True)
    outcome = app.engine.containers.exec(container, spec, streams=streams)
    if outcome.error:
        app.complain(f"exec in {container}: {outcome.error}")
    return outcome.exit_code

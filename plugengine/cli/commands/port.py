"""`pe port`."""

from __future__ import annotations

from plugengine.cli.app import App
from plugengine.cli.command import argument, command
from plugengine.cli.parse.ports import parse_expose
from plugengine.errors import NotFoundError
from plugengine.model import Port


@command(argument("container"), argument("port", required=False, metavar="[PORT[/PROTO]]"))
def port(app: App, container: str, port: str | None) -> None:
    """List the published ports of a container, or where one of them is published."""
    ports = sorted(
        app.engine.containers.ports(container), key=lambda each: (each.guest_port, each.protocol, each.host_port)
    )
    if port is None:
        for each in ports:
            app.write(f"{each.guest_port}/{each.protocol} -> {host_address(each)}\n")
        return
    wanted = parse_expose("PORT", port)
    found = [each for each in ports if (each.guest_port, each.protocol) in wanted]
    if not found:
        raise NotFoundError(f"port {port} of container {container}: not published", hint=f"pe port {container}")
    for each in found:
        app.write(f"{host_address(each)}\n")


def host_address(each: Port) -> str:
    """Return where a port is reached on the host."""
    return f"{each.host_ip or '0.0.0.0'}:{each.host_port}"  # noqa: S104 - what an empty address means

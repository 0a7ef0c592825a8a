"""`pe network create`, `ls` and `rm`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from plugengine.cli.app import App
from plugengine.cli.command import argument, command, option, options, switch
from plugengine.cli.filters import parse_filters
from plugengine.cli.formatting import show_rows
from plugengine.cli.parse.environment import parse_pairs
from plugengine.errors import NotFoundError

HEADINGS: Final[Mapping[str, str]] = {
    "Name": "NAME",
    "Driver": "DRIVER",
    "Subnet": "SUBNET",
    "Gateway": "GATEWAY",
    "Options": "OPTIONS",
    "Scope": "SCOPE",
}


@command(
    option("-d", "--driver", metavar="DRIVER", help="Network driver; see pe drivers."),
    option("--subnet", metavar="CIDR", help="Subnet; a free private one if not given."),
    option("--gateway", metavar="ADDRESS", help="Gateway; the first address of the subnet if not given."),
    option("--ip-range", metavar="CIDR", help="Part of the subnet that containers get addresses from."),
    options("-o", "--opt", metavar="NAME=VALUE", help="Option of the driver, for the whole network."),
    argument("name", metavar="NAME"),
)
def create(app: App, name: str, *, opt: tuple[str, ...], **values: str | None) -> None:
    """Make a network, and print its name; containers join it with `--net NAME`."""
    network = app.engine.networks.create(
        name,
        driver=values["driver"],
        subnet=values["subnet"],
        gateway=values["gateway"],
        ip_range=values["ip_range"],
        options=parse_pairs("--opt", opt, example="mtu=1400"),
    )
    app.line(network.name)


@command(
    switch("-q", "--quiet", help="Names only."),
    options("-f", "--filter", metavar="KEY=VALUE", help="name or driver."),
    option("--format", metavar="TEMPLATE", help="table, json, or a Go template."),
)
def ls(app: App, *, quiet: bool, filter: tuple[str, ...], format: str | None) -> None:  # noqa: A002 - the flags' names
    """List networks: those somebody made, and the drivers' own that containers are on."""
    wanted = parse_filters(filter, ("name", "driver"), example="driver=macvlan")
    lines = [
        {
            "Name": network.name,
            "Driver": network.driver,
            "Subnet": network.subnet or "",
            "Gateway": network.gateway or "",
            "Options": ",".join(f"{key}={value}" for key, value in sorted(network.options.items())),
            "Scope": "local",
        }
        for network in app.engine.networks.list()
        if (not wanted.get("name") or any(text in network.name for text in wanted["name"]))
        and (not wanted.get("driver") or network.driver in wanted["driver"])
    ]
    show_rows(
        app.write,
        lines,
        columns=("Name", "Driver", "Subnet", "Options"),
        headings=HEADINGS,
        template=format,
        quiet="Name" if quiet else None,
    )


@command(
    switch("-f", "--force", help="One that is not there is no error."),
    argument("names", many=True, metavar="NETWORK..."),
)
def rm(app: App, names: tuple[str, ...], *, force: bool) -> int:
    """Remove networks that no running container is on."""

    def remove(name: str) -> str | None:
        try:
            app.engine.networks.remove(name)
        except NotFoundError:
            if not force:
                raise
            return None
        return name

    return app.each(names, remove)

"""`pe ps`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from plugengine.cli.app import App
from plugengine.cli.command import command, option, options, switch
from plugengine.cli.filters import asks_for_all, container_filter, docker_state
from plugengine.cli.formatting import show_rows
from plugengine.cli.human import ago, decimal_size, duration, local_time, shorten
from plugengine.cli.parse.quantities import parse_int
from plugengine.errors import PlugengineError
from plugengine.model import short_id
from plugengine.spec import command_line
from plugengine.state.container_rows import LIVE

if TYPE_CHECKING:
    from plugengine.objects import Container

HEADINGS: Final[Mapping[str, str]] = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "RunningFor": "CREATED",
    "CreatedAt": "CREATED AT",
    "Status": "STATUS",
    "State": "STATE",
    "Ports": "PORTS",
    "Names": "NAMES",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "Networks": "NETWORKS",
    "Drivers": "DRIVERS",
    "Storage": "STORAGE",
    "Cgroup": "CGROUP",
    "Size": "SIZE",
}
_COLUMNS: Final = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")
_COMMAND_LENGTH: Final = 20
_SECOND_NS: Final = 1_000_000_000
_MOST: Final = 2**31 - 1


@command(
    switch("-a", "--all", help="Also those that do not run."),
    switch("-q", "--quiet", help="Ids only."),
    switch("--no-trunc", help="Whole ids and commands."),
    option("-n", "--last", metavar="NUMBER", help="Only the last ones created, whatever their state."),
    switch("-l", "--latest", help="Only the last one created."),
    switch("-s", "--size", help="Show the size of the writable layer."),
    switch("--drivers", help="Show the drivers of each container."),
    options("-f", "--filter", metavar="KEY=VALUE", help="id, name, status, label, ancestor, exited, network, volume …"),
    option("--format", metavar="TEMPLATE", help="table, json, or a Go template."),
)
def ps(app: App, **values: Any) -> None:
    """List the containers that run, or all of them."""
    passes = container_filter(values["filter"])
    last = 1 if values["latest"] else 0
    if values["last"] is not None:
        last = max(parse_int("--last", values["last"], low=-1, high=_MOST), 0)
    rows = app.engine.containers.list(all=values["all"] or bool(last) or asks_for_all(values["filter"]))
    rows = [row for row in rows if passes(row)]
    if last:
        rows = rows[:last]
    whole, now = values["no_trunc"], time.time_ns()
    lines = [describe(row, now_ns=now, whole=whole) for row in rows]
    for line, row in zip(lines, rows, strict=True):
        if missing := app.engine.drivers.missing(row.drivers):
            line["Status"] += f" ({', '.join(missing)} missing)"
    columns: tuple[str, ...] = _COLUMNS
    if values["drivers"]:
        columns = (*columns, "Drivers")
    if values["size"]:
        columns = (*columns, "Size")
        lines = [{**line, "Size": _size(app, row)} for line, row in zip(lines, rows, strict=True)]
    show_rows(
        app.write,
        lines,
        columns=columns,
        headings=HEADINGS,
        template=values["format"],
        quiet="ID" if values["quiet"] else None,
    )


def describe(row: Container, *, now_ns: int, whole: bool) -> dict[str, str]:
    """Return what a line about a container may show."""
    command_text = " ".join(command_line(row.spec, row.config).argv)
    drivers = row.drivers
    mounts = [mount.name or mount.source for mount in row.mounts]
    return {
        "ID": row.id if whole else short_id(row.id),
        "Image": row.image_name,
        "Command": f'"{command_text if whole else shorten(command_text, _COMMAND_LENGTH)}"',
        "CreatedAt": local_time(row.created_ns),
        "RunningFor": ago(row.created_ns, now_ns),
        "Status": status_text(row, now_ns),
        "State": docker_state(row.status),
        "Ports": ports_text(row),
        "Names": row.name,
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(row.spec.labels.items())),
        "Mounts": ",".join(filter(None, mounts)),
        "Networks": row.spec.modes.get("net") or drivers.joins,
        "Storage": drivers.storage,
        "Cgroup": drivers.cgroup,
        "Drivers": f"{drivers.storage},{drivers.network},{drivers.cgroup},{drivers.namespace},{drivers.runtime}",
        "Size": "",
    }


def status_text(row: Container, now_ns: int) -> str:
    """Return "Up 5 minutes", "Exited (0) 3 hours ago" and so on."""
    state = row.state
    if row.status in LIVE:
        up = f"Up {duration((now_ns - state.started_ns) / _SECOND_NS)}"
        if row.recovering:
            return f"{up} (Recovering)"
        return f"{up} (Paused)" if row.status == "paused" else up
    if row.status == "exited":
        return f"Exited ({state.exit_code or 0}) {ago(state.finished_ns, now_ns)}"
    return {"removing": "Removal In Progress"}.get(row.status, row.status.capitalize())


def ports_text(row: Container) -> str:
    """Return "0.0.0.0:8080->80/tcp, 443/tcp": the published ports of a running container, and the exposed ones."""
    published = [port for each in row.connections for port in each.attachment.ports]
    texts = [
        f"{port.host_ip or '0.0.0.0'}:{port.host_port}->{port.guest_port}/{port.protocol}"  # noqa: S104
        for port in sorted(published, key=lambda port: (port.guest_port, port.host_port))
    ]
    known = {f"{port.guest_port}/{port.protocol}" for port in published}
    texts += [port for port in row.config.exposed_ports if port not in known]
    return ", ".join(texts)


def _size(app: App, row: Container) -> str:
    """Return the size of the writable layer, or why it is not known."""
    try:
        return decimal_size(app.engine.containers.usage(row.id).size_bytes)
    except PlugengineError as exc:
        return f"-- ({exc.message})"

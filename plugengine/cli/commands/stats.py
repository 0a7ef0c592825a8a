"""`pe stats`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from plugengine.cli.app import App
from plugengine.cli.command import argument, command, option, switch
from plugengine.cli.formatting import show_rows
from plugengine.cli.human import binary_size, decimal_size
from plugengine.errors import ConflictError, NotFoundError
from plugengine.model import short_id
from plugengine.objects import ContainerStats

if TYPE_CHECKING:
    from plugengine.objects import Container

HEADINGS: Final[Mapping[str, str]] = {
    "ID": "CONTAINER ID",
    "Container": "CONTAINER",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
    "DriverStats": "DRIVER STATS",
    "Note": "NOTE",
}
_COLUMNS: Final = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")
_INTERVAL_S: Final = 1.0
_UNKNOWN: Final = "--"
_CLEAR: Final = "\033[H\033[J"  # cursor home, erase to the end; console_codes(4)


class Sample(Struct, frozen=True, kw_only=True):
    """One look at a container."""

    time_ns: int
    stats: ContainerStats
    driver: Mapping[str, int] = {}


@command(
    switch("-a", "--all", help="Also those that do not run."),
    switch("--no-stream", help="Once, not again and again."),
    switch("--no-trunc", help="Whole ids."),
    option("--format", metavar="TEMPLATE", help="table, json, or a Go template."),
    argument("containers", many=True, required=False, metavar="[CONTAINER]..."),
)
def stats(app: App, containers: tuple[str, ...], **values: Any) -> None:
    """Show the use of resources of all running containers, or of those named, every second."""
    before: dict[str, Sample] = {}
    _take(app, _rows(app, containers, everyone=values["all"]), before)
    live = not values["no_stream"] and sys.stdout.isatty()
    while True:
        time.sleep(_INTERVAL_S)
        rows = _rows(app, containers, everyone=values["all"])
        samples: dict[str, Sample] = {}
        _take(app, rows, samples)
        lines = [describe(row, before.get(row.id), samples.get(row.id), whole=values["no_trunc"]) for row in rows]
        if live:
            sys.stdout.write(_CLEAR)
        columns = (*_COLUMNS, "Note") if any(line["Note"] for line in lines) else _COLUMNS
        show_rows(app.write, lines, columns=columns, headings=HEADINGS, template=values["format"])
        sys.stdout.flush()
        if values["no_stream"]:
            return
        before = samples


def _rows(app: App, containers: tuple[str, ...], *, everyone: bool) -> list[Container]:
    if containers:
        return [app.engine.containers.get(reference) for reference in containers]
    return app.engine.containers.list(all=everyone)


def _take(app: App, rows: Iterable[Container], samples: dict[str, Sample]) -> None:
    for row in rows:
        try:
            found = app.engine.containers.stats(row.id)
        except (ConflictError, NotFoundError):
            continue  # it does not run, or has just ended
        driver = app.engine.containers.driver_stats(row.id) if row.state.server_pid else {}
        samples[row.id] = Sample(time_ns=time.monotonic_ns(), stats=found, driver=driver)


def describe(row: Container, before: Sample | None, now: Sample | None, *, whole: bool) -> dict[str, Any]:
    """Return what a line about a container may show; what is not known is two dashes."""
    names = {"ID": row.id if whole else short_id(row.id), "Container": row.id, "Name": row.name}
    if now is None:
        return {**names, **dict.fromkeys(_COLUMNS[2:], _UNKNOWN), "DriverStats": {}, "Note": ""}
    cgroup, network = now.stats.cgroup, now.stats.network
    used, limit = cgroup.memory_bytes, cgroup.memory_limit_bytes or _host_memory()
    return {
        **names,
        "CPUPerc": cpu_percent(before, now),
        "MemUsage": _UNKNOWN if used is None else f"{binary_size(used)} / {binary_size(limit)}",
        "MemPerc": _UNKNOWN if used is None else f"{100 * used / limit:.2f}%",
        "NetIO": _UNKNOWN
        if network is None
        else f"{decimal_size(network.rx_bytes)} / {decimal_size(network.tx_bytes)}",
        "BlockIO": f"{_decimal(cgroup.read_bytes)} / {_decimal(cgroup.write_bytes)}",
        "PIDs": _UNKNOWN if cgroup.pids is None else str(cgroup.pids),
        "DriverStats": {**now.driver, **cgroup.extra},
        "Note": "; ".join(now.stats.problems),
    }


def cpu_percent(before: Sample | None, now: Sample) -> str:
    """Return the share of one processor used between two samples."""
    last, used = None if before is None else before.stats.cgroup.cpu_usage_ns, now.stats.cgroup.cpu_usage_ns
    if before is None or last is None or used is None:
        return _UNKNOWN
    elapsed = now.time_ns - before.time_ns
    used = max(used - last, 0)
    return f"{100 * used / elapsed if elapsed > 0 else 0:.2f}%"


def _decimal(size: int | None) -> str:
    return _UNKNOWN if size is None else decimal_size(size)


def _host_memory() -> int:
    import os

    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

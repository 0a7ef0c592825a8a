"""`pe top`."""

from __future__ import annotations

from plugengine.cli.app import App
from plugengine.cli.command import argument, command
from plugengine.cli.table import write_table

_HEADINGS = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")


@command(argument("container"))
def top(app: App, container: str) -> None:
    """List the processes of a container, with the host's process ids."""
    rows = [
        (
            line.user,
            str(line.pid),
            str(line.ppid),
            f"{line.cpu_percent:.0f}",
            line.start,
            line.tty,
            line.cpu_time,
            line.command,
        )
        for line in app.engine.containers.top(container)
    ]
    write_table(app.write, _HEADINGS, rows)

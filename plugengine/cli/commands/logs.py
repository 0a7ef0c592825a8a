"""`pe logs`."""

from __future__ import annotations

import sys
import time
from typing import Final

from plugengine.cli.app import App
from plugengine.cli.command import argument, command, option, switch
from plugengine.cli.parse.quantities import parse_int
from plugengine.cli.parse.times import parse_date, parse_moment

_MOST_LINES: Final = 2**31 - 1


@command(
    switch("-f", "--follow", help="Go on until the container ends."),
    option("-n", "--tail", metavar="LINES", help="Only the last lines, or all  [all]"),
    option("--since", metavar="TIME", help="Only later lines: a date, a Unix time, or 10m for the last ten minutes."),
    option("--until", metavar="TIME", help="Only earlier lines."),
    switch("-t", "--timestamps", help="Put the time in front of each line."),
    argument("container"),
)
def logs(
    app: App,
    container: str,
    *,
    follow: bool,
    tail: str | None,
    since: str | None,
    until: str | None,
    timestamps: bool,
) -> None:
    """Show what a container wrote to its standard output and error, each on ours."""
    lines = None if tail in (None, "all") else parse_int("--tail", tail or "", low=-1, high=_MOST_LINES, example="100")
    now = time.time_ns()
    first = None if since is None else parse_moment("--since", since, now_ns=now)
    last = None if until is None else parse_moment("--until", until, now_ns=now)
    outputs = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
    output = sys.stdout.buffer
    for line in app.engine.containers.logs(
        container, tail=None if lines is not None and lines < 0 else lines, follow=follow
    ):
        if first is not None or last is not None:
            moment = parse_date(line.time) or 0
            if first is not None and moment < first:
                continue
            if last is not None and moment > last:
                return
        if outputs.get(line.stream, sys.stdout.buffer) is not output:
            output.flush()  # both may lead to one terminal: lines stay in their order
            output = outputs.get(line.stream, sys.stdout.buffer)
        prefix = f"{line.time} " if timestamps else ""
        output.write(f"{prefix}{line.log}".encode("utf-8", "surrogateescape"))
        if follow:
            output.flush()

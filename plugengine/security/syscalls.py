"""Numbers of system calls on the machines a filter can be made for; see syscalls.tbl."""

from __future__ import annotations

import os
from functools import cache

_COLUMNS = ("x86_64", "i386", "aarch64")
_ABSENT = "-"


@cache
def numbers(machine: str) -> dict[str, int]:
    """Return name to number for "x86_64", "i386" or "aarch64".

    Raises:
        KeyError: No table for the machine.
    """
    if machine not in _COLUMNS:
        raise KeyError(machine)
    column = 1 + _COLUMNS.index(machine)
    with open(os.path.join(os.path.dirname(__file__), "syscalls.tbl"), encoding="ascii") as file:
        rows = [line.split() for line in file if not line.startswith("#")]
    return {row[0]: int(row[column]) for row in rows if row[column] != _ABSENT}

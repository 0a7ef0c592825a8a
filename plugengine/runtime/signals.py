"""Signals by name; see signal(7)."""

from __future__ import annotations

import signal

from plugengine.errors import UsageError


def signal_number(text: str) -> int:
    """Return the number of a signal given as "SIGTERM", "term", "15" or "RTMIN+3".

    Raises:
        UsageError: There is no such signal.
    """
    name, plus, offset = text.upper().removeprefix("SIG").partition("+")
    number = int(name) if name.isascii() and name.isdigit() and len(name) < len("100") else _by_name(name)
    if plus and name == "RTMIN" and offset.isascii() and offset.isdigit():
        number += int(offset[:3])
    elif plus:
        number = 0
    if not 0 < number <= signal.SIGRTMAX:
        raise UsageError(f"signal {text!r}: no such signal")
    return number


def _by_name(name: str) -> int:
    found = getattr(signal, f"SIG{name}", None)
    return int(found) if isinstance(found, signal.Signals) else 0

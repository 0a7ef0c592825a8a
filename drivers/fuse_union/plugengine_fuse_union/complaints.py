"""Lines in the server's log about requests that failed for a reason of this side: a bounded number, whatever is asked.

What is inside a container can make the same thing fail as often as it likes, and its names may hold anything.
"""

from __future__ import annotations

import os
import sys
from typing import Final

_MOST_ALIKE: Final = 5
_MOST: Final = 500
_LONGEST_PATH: Final = 200


class Complaints:
    """Writes to standard error, and counts what it has written."""

    def __init__(self) -> None:
        self._alike: dict[tuple[str, str], int] = {}
        self._written = 0

    def add(self, operation: str, path: str, exc: Exception) -> None:
        """Write a line about a request, unless there are enough like it.

        Args:
            operation: What was asked.
            path: Of what, as far as it is known; any text.
            exc: What went wrong.
        """
        place = _place(exc)
        kind = (f"{type(exc).__name__} {getattr(exc, 'errno', None)}", place)
        count = self._alike[kind] = self._alike.get(kind, 0) + 1
        if count > _MOST_ALIKE or self._written >= _MOST:
            return
        self._written += 1
        last = count == _MOST_ALIKE or self._written == _MOST
        shown = path if len(path) <= _LONGEST_PATH else f"...{path[-_LONGEST_PATH:]}"
        sys.stderr.write(
            f"fuse_union: {operation} {_plain(shown)}: {_plain(repr(exc))} at {place}{_NO_MORE if last else ''}\n"
        )


_NO_MORE: Final = "; no more lines of this kind"


def _plain(text: str) -> str:
    """Return a text in which nothing can end the line or talk to a terminal."""
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]


def _place(exc: Exception) -> str:
    where = exc.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    return f"{os.path.basename(where.tb_frame.f_code.co_filename)}:{where.tb_lineno}" if where else "?"

"""Standard output that tells its own failures from everybody else's."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STDOUT = 1


class OutputError(OSError):
    """What a command prints cannot be written; a reader that went away stays a BrokenPipeError."""


class _Output(io.FileIO):
    """The descriptor of standard output."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write to the descriptor."""
        try:
            return super().write(data)
        except (BrokenPipeError, BlockingIOError):
            raise
        except OSError as exc:
            raise OutputError(exc.errno, exc.strerror) from None


def watch_output() -> None:
    """Let writes to standard output raise `OutputError`, whoever makes them; a stream that is no descriptor stays."""
    stream = sys.stdout
    if type(stream) is not io.TextIOWrapper or stream.fileno() != _STDOUT:
        return
    stream.flush()
    raw = _Output(_STDOUT, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        cast("BinaryIO", raw) if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )

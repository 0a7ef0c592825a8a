"""Make tars with the standard library: a second opinion on what our own reader and writer do."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable, Iterable
from typing import Any

from plugengine.errors import ImageError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["TYPES", "make_tar", "member", "refusal_of", "zstd"]

TYPES = {
    "file": tarfile.REGTYPE,
    "directory": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "link": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "character": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
}


def member(name: str, kind: str = "file", content: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return one member; attributes are those of `tarfile.TarInfo`."""
    info = tarfile.TarInfo(name)
    info.type = TYPES[kind]
    info.mode = 0o755 if kind == "directory" else 0o644
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def make_tar(members: Iterable[tuple[tarfile.TarInfo, bytes]], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar of the members, in order, however hostile."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, errors="surrogateescape") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def refusal_of(call: Callable[[], object]) -> str | None:
    """Return the message with which something is refused, None when it is not."""
    try:
        call()
    except ImageError as error:
        return str(error)
    return None

"""Make a one-layer image out of a tar of a root filesystem."""

from __future__ import annotations

import os
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from plugengine.errors import ImageError, NotFoundError, UsageError
from plugengine.images.building import add_image, timestamp
from plugengine.images.config import make_config, parse_config
from plugengine.images.layers.apply import unpack
from plugengine.images.tar.compression import Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, BinaryIO

    from plugengine.images.store import ImageStore, Progress
    from plugengine.spec import Image


def import_rootfs(
    store: ImageStore,
    source: str | BinaryIO,
    name: str | None,
    *,
    config: Mapping[str, Any],
    progress: Progress | None = None,
) -> Image:
    """See `ImageStore.import_rootfs`."""
    full_name = store.checked_name(name) if name else None
    what = name_of(source)
    with opened(source) as stream, store.files.scratch() as work:
        layer = work.directory("layer")
        stored = Measured(stream, what=what, hashed=False, progress=reporter(progress, what, _size_of(stream)))
        done = unpack(stored, layer, what=what)
        if not done.tar_bytes:
            raise ImageError(f"{what}: is empty", hint="an image without files is made of an empty tar")
        if not store.files.has_layer(done.diff_id):
            store.files.add_layer(layer, done.diff_id)
    content = make_config(
        diff_ids=[done.diff_id], created=timestamp(time.time_ns()), created_by=f"pe import {what}", config=dict(config)
    )
    parse_config(content, "image to be made")
    names = [full_name] if full_name else []
    return add_image(store, content, done, names)


@contextmanager
def opened(source: str | BinaryIO) -> Iterator[BinaryIO]:
    """Open a path; a file that is open already is only lent. Raises: NotFoundError."""
    if not isinstance(source, str):
        yield source
        return
    try:
        file = open(source, "rb")  # noqa: SIM115 - closed below; only the opening is guarded
    except FileNotFoundError as exc:
        raise NotFoundError(f"archive {source}: no such file") from exc
    except IsADirectoryError as exc:
        raise UsageError(f"archive {source}: is a directory") from exc
    with file:
        yield cast("BinaryIO", file)


def name_of(source: str | BinaryIO) -> str:
    """Return what to call an archive in messages: its path, or where it comes from."""
    if isinstance(source, str):
        return source
    try:
        return "standard input" if source.fileno() == 0 else "archive"
    except OSError:
        return "archive"  # in memory


def _size_of(stream: BinaryIO) -> int | None:
    """Return how many bytes are left of a regular file, None of a pipe."""
    try:
        found = os.fstat(stream.fileno())
        return found.st_size - stream.tell() if stat.S_ISREG(found.st_mode) else None
    except OSError:
        return None  # in memory


def reporter(progress: Progress | None, what: str, total: int | None) -> Callable[[int], None] | None:
    """Return what adds up the bytes of one piece of work for a progress callback."""
    if progress is None:
        return None
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        progress(what, done, total)

    return report

"""Images made of this machine's own files, for use without a network: `host:base`, `host:python`, `host:<path>,…`."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from typing import TYPE_CHECKING

from msgspec import DecodeError
from msgspec.json import decode, encode

from plugengine.errors import ImageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from plugengine.images.store import ImageStore, Progress
    from plugengine.spec import Image

SCHEME = "host"
# Part of every record: a new way of making the images makes them anew.
_FORMAT = 1
_HINT = "host:base, host:python, or host: and absolute paths of programs, separated by commas"


def resolve(store: ImageStore, reference: str, *, pull: str, progress: Progress | None) -> Image:  # noqa: ARG001
    """Return the image, made anew if a file it depends on has changed since, whatever `pull` says.

    The common case opens one small file and calls stat(2) once for each program and library.

    Raises:
        NotFoundError: A program, or a library it needs, is not there.
        UsageError: The name is not understood.
    """
    name = reference.removeprefix(f"{SCHEME}:")
    record = f"{store.files.sources}/{SCHEME}-{_file_name(name)}.json"
    image = _made_before(store, name, record)
    if image is not None:
        return image
    with _alone_with(store, record):  # of many that ask at once the first makes it, the others wait
        image = _made_before(store, name, record)
        return image if image is not None else _make(store, name, record)


@contextmanager
def _alone_with(store: ImageStore, record: str) -> Iterator[None]:
    store.files.ensure()
    fd = os.open(f"{record}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        flock(fd, LOCK_EX)
        yield
    finally:
        os.close(fd)


def _file_name(name: str) -> str:
    if name in ("base", "python"):
        return name
    from hashlib import sha256

    return sha256(os.fsencode(name)).hexdigest()


def _made_before(store: ImageStore, name: str, record: str) -> Image | None:
    try:
        with open(record, "rb") as file:
            data = decode(file.read())
    except (OSError, DecodeError):
        return None
    if data["maker"] != _maker(name) or any(_stamp(entry[0]) != entry[1] for entry in data["inputs"]):
        return None
    try:
        return store.catalog.by_id(data["image"])
    except ImageError:
        return None  # a layer is lost, but can be made again


def _maker(name: str) -> list[Any]:
    return [_FORMAT, sys.executable, sys.hexversion] if name == "python" else [_FORMAT]


def _stamp(path: str) -> list[int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _make(store: ImageStore, name: str, record: str) -> Image:
    from plugengine.images.scratch import place_over
    from plugengine.images.sources.host import files

    if name == "base":
        tree, config = files.base()
    elif name == "python":
        tree, config = files.python()
    elif name:
        tree, config = files.programs(name.split(","))
    else:
        raise UsageError(f"image {SCHEME}:{name}: nothing is named", hint=_HINT)
    image = store.add_built(
        tree.build,
        config=config,
        created_ns=tree.newest_mtime_ns,
        created_by=f"{SCHEME}:{name}",
        name=f"{SCHEME}:{name}",
    )
    inputs = sorted(tree.inputs.items())
    place_over(store.files.tmp, record, encode({"maker": _maker(name), "image": image.id, "inputs": inputs}))
    return image

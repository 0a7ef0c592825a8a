"""Make a one-layer image out of a tar of a root filesystem."""

from __future__ import annotations

import os
import shlex
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from msgspec import DecodeError
from msgspec.json import decode

from plugengine.errors import ImageError, NotFoundError, UsageError
from plugengine.images.building import add_image, timestamp
from plugengine.images.config import make_config
from plugengine.images.layers.apply import unpack
from plugengine.images.tar.compression import Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, BinaryIO

    from plugengine.images.store import ImageStore, Progress
    from plugengine.spec import Image

_LISTS = {"CMD": "Cmd", "ENTRYPOINT": "Entrypoint"}
_STRINGS = {"USER": "User", "WORKDIR": "WorkingDir", "STOPSIGNAL": "StopSignal"}
_SETS = {"EXPOSE": "ExposedPorts", "VOLUME": "Volumes"}
_INSTRUCTIONS = (*_LISTS, *_STRINGS, *_SETS, "ENV", "LABEL")
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def import_rootfs(
    store: ImageStore,
    source: str | BinaryIO,
    name: str | None,
    *,
    changes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Image:
    """See `ImageStore.import_rootfs`."""
    full_name = store.checked_name(name) if name else None
    config = parse_changes(changes)
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
        diff_ids=[done.diff_id], created=timestamp(time.time_ns()), created_by=f"pe import {what}", config=config
    )
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


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """Return the config object that Dockerfile instructions make; see `docker import --change`.

    Raises:
        UsageError: An instruction is not understood.
    """
    config: dict[str, Any] = {"Env": [_PATH]}
    for change in changes:
        word, _, rest = change.strip().partition(" ")
        instruction, argument = word.upper(), rest.strip()
        if instruction not in _INSTRUCTIONS or not argument:
            raise UsageError(f"change {change!r}: not one of {', '.join(_INSTRUCTIONS)} with a value")
        if instruction in _LISTS:
            config[_LISTS[instruction]] = _command(argument)
        elif instruction in _STRINGS:
            config[_STRINGS[instruction]] = argument
        elif instruction in _SETS:
            config.setdefault(_SETS[instruction], {}).update({one: {} for one in _members(instruction, argument)})
        else:
            _set_pairs(config, instruction, argument, change)
    return config


def _command(argument: str) -> list[str]:
    words = _json_strings(argument)
    return words if words is not None else ["/bin/sh", "-c", argument]


def _json_strings(argument: str) -> list[str] | None:
    """Return a JSON list of strings, None when the argument is none."""
    try:
        words = decode(argument)
    except DecodeError:
        return None
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None


def _members(instruction: str, argument: str) -> list[str]:
    words = _json_strings(argument) or argument.split()
    return [word if instruction != "EXPOSE" or "/" in word else f"{word}/tcp" for word in words]


def _set_pairs(config: dict[str, Any], instruction: str, argument: str, change: str) -> None:
    """ENV and LABEL: `key=value …`, or `key value` for one."""
    try:
        words = shlex.split(argument)
    except ValueError as exc:
        raise UsageError(f"change {change!r}: {exc}") from exc
    if "=" not in words[0]:
        words = [f"{words[0]}={' '.join(words[1:])}"]
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"change {change!r}: {word!r} is not key=value")
        if instruction == "LABEL":
            config.setdefault("Labels", {})[key] = value
        else:
            config["Env"] = [entry for entry in config["Env"] if not entry.startswith(f"{key}=")] + [word]

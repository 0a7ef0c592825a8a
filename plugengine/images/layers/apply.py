"""Unpack one layer tar into a directory in overlay form; hostile tars are refused or held inside the directory.

What is decided here: absolute names are relative to the layer and `..` is folded, but never above the root;
symlinks on the way are followed inside the layer only; character device 0:0 is refused, because it would be taken
for a whiteout; other device nodes are made, as docker does (the container's device rules guard them); of the
extended attributes only user.*, file capabilities and ACLs are kept. A layer is complete or not there at all.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from plugengine.errors import ImageError, UsageError
from plugengine.images.layers.writer import LayerWriter
from plugengine.images.tar.compression import Measured, Unpacked
from plugengine.images.tar.limits import DEFAULT, Caps
from plugengine.images.tar.read import TarReader
from plugengine.trees import remove_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugengine.images.tar.compression import Readable
    from plugengine.model import HostPath

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Applied(NamedTuple):
    """What came of a layer."""

    diff_id: str
    size_bytes: int  # of the files
    tar_bytes: int


def apply_layer(
    stream: Readable,
    directory: HostPath,
    *,
    expected: str | None = None,
    parents: Sequence[HostPath] = (),
    what: str = "layer",
    caps: Caps = DEFAULT,
) -> tuple[str, int]:
    """Unpack a layer; see `unpack` for the arguments.

    Returns:
        The diff id and the size of the files.
    """
    from plugengine.state.locations import directory_error

    try:
        done = unpack(stream, directory, expected=expected, parents=parents, what=what, caps=caps)
    except OSError as exc:
        raise directory_error(f"apply {what} in", exc, directory) from exc
    return done.diff_id, done.size_bytes


def unpack(
    stream: Readable,
    directory: HostPath,
    *,
    expected: str | None = None,
    parents: Sequence[HostPath] = (),
    what: str = "layer",
    caps: Caps = DEFAULT,
) -> Applied:
    """Unpack a layer.

    Args:
        stream: The tar, plain or compressed.
        directory: Made when missing; must be empty. Emptied again (and removed if it was made) on failure.
        expected: The diff id it must have.
        parents: Unpacked layers below, lowest first: a directory the tar does not mention but needs gets the
            attributes it has there, because overlayfs shows those of the highest layer.
        what: Names the layer in errors.
        caps: The limits.

    Raises:
        ImageError: The tar is damaged, hostile, or another one.
        UsageError: The directory is not empty.
    """
    made = _make_target(directory)
    root_fd = os.open(directory, _OPEN_DIRECTORY)
    try:
        return _unpack(Unpacked(stream, what=what, caps=caps), root_fd, expected, parents, what, caps)
    except BaseException:
        remove_at.empty(root_fd)
        if made:
            os.rmdir(directory)
        raise
    finally:
        os.close(root_fd)


def _make_target(directory: HostPath) -> bool:
    try:
        os.mkdir(directory)
    except FileExistsError:
        if os.listdir(directory):
            raise UsageError(
                f"directory {directory}: is not empty", hint="a layer needs a directory of its own"
            ) from None
        return False
    os.chmod(directory, 0o755)  # noqa: S103 - a root filesystem is for everyone
    return True


def _unpack(
    source: Readable,
    root_fd: int,
    expected: str | None,
    parents: Sequence[HostPath],
    what: str,
    caps: Caps,
) -> Applied:
    plain = Measured(source, what=what)
    reader = TarReader(plain, what=what, caps=caps)
    with LayerWriter(root_fd, parents, what=what, caps=caps) as writer:
        for entry in reader:
            writer.write(entry, reader.data())
        writer.finish()
    plain.drain()
    if expected is not None and plain.digest != expected:
        raise ImageError(f"{what}: its digest is {plain.digest}, not {expected}")
    return Applied(plain.digest, writer.size, plain.count)

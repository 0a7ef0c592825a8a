"""Turn a chain of layers and a container's directory into mounts; pure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from plugengine.errors import DriverError
from plugengine.kernel.mount import MS_RDONLY
from plugengine.model import HostPath, Mount, StorageRequest

UPPER: Final = "upper"
WORK: Final = "work"
EMPTY: Final = "empty"  # the lower directory of a container without layers: overlayfs wants one
LOWER: Final = "lower"  # the layers with mapped owners: a mount point, or copies
LINKS: Final = "l"  # short names of the layers, for kernels that take all of them in one page

# fsconfig(2) takes strings of less than 256 bytes, mount(2) less than a page.
_LONGEST_VALUE: Final = 255
_PAGE_BYTES: Final = 4096


def unique(chain: Sequence[HostPath]) -> tuple[HostPath, ...]:
    """Return the chain without repetitions, which overlayfs refuses (ELOOP).

    The last of several equal layers is kept: it says all that an earlier one said, and says it later.
    """
    return tuple(reversed(dict.fromkeys(reversed(chain))))


def common_parent(chain: Sequence[HostPath]) -> HostPath:
    """Return the directory that holds all layers of a chain that has some."""
    return HostPath(os.path.commonpath([os.path.dirname(layer) for layer in chain]))


def mapped_parent(request: StorageRequest) -> Mount:
    """Return the mount that shows the layers with mapped owners, for overlayfs to take them from."""
    return Mount(
        fstype="bind",
        source=common_parent(request.chain),
        target=HostPath(f"{request.directory}/{LOWER}"),
        flags=MS_RDONLY,
        user_map=request.user_map,
    )


def below_mapped_parent(request: StorageRequest) -> tuple[HostPath, ...]:
    """Return where the layers are once `mapped_parent` is mounted."""
    parent = common_parent(request.chain)
    return tuple(HostPath(f"{request.directory}/{LOWER}/{os.path.relpath(layer, parent)}") for layer in request.chain)


def overlay(
    request: StorageRequest,
    layers: Sequence[HostPath],
    options: tuple[tuple[str, str | None], ...],
    *,
    appending: bool,
    links: HostPath | None = None,
) -> Mount:
    """Return the overlay mount.

    Args:
        request: The container.
        layers: Its layers as they are to be mounted, lowest first.
        options: Further mount options.
        appending: The kernel takes layers one by one ("lowerdir+").
        links: Directory with symbolic links 0, 1, 2 … to the layers, topmost first; used where all names must fit
            into one page. The mount's source then names it, and it is the directory relative names begin in.

    Raises:
        DriverError: The names are too long for this kernel.
    """
    lowest = layers or (HostPath(f"{request.directory}/{EMPTY}"),)
    lower = tuple(reversed(unique(lowest)))
    rest = (
        ("upperdir", _escaped(f"{request.directory}/{UPPER}")),
        ("workdir", _escaped(f"{request.directory}/{WORK}")),
        *options,
    )
    source = "overlay"
    names: tuple[tuple[str, str | None], ...]
    if appending and all(_length(value) <= _LONGEST_VALUE for value in (*lower, *(value or "" for _, value in rest))):
        names = tuple(("lowerdir+", layer) for layer in lower)
    else:
        joined = ":".join(_escaped(layer, also=":") for layer in lower)
        if links is not None and _length(joined) + _size(rest) > _PAGE_BYTES:
            source, joined = links, ":".join(str(number) for number in range(len(lower)))
        names = (("lowerdir", joined),)
        if _size(names) + _size(rest) > _PAGE_BYTES:
            raise DriverError(
                f"mount overlay on {request.target}: the names of {len(lower)} layers are too long for this kernel",
                hint="use a shorter --root, or Linux 6.8 or newer",
            )
    return Mount(
        fstype="overlay",
        source=source,
        target=request.target,
        flags=MS_RDONLY if request.read_only else 0,
        options=(*names, *rest),
    )


def _escaped(path: str, *, also: str = "") -> str:
    """Return a path as overlayfs reads it: backslash and comma have a meaning, and the colon between layers."""
    for character in ("\\", ",", *also):
        path = path.replace(character, "\\" + character)
    return path


def _length(text: str) -> int:
    return len(os.fsencode(text))


def _size(options: Sequence[tuple[str, str | None]]) -> int:
    return sum(_length(key) + _length(value or "") + len("=,") for key, value in options)

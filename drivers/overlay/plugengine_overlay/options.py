"""The driver's options, and what becomes of them as mount options; see overlayfs.rst."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from plugengine.model import Option, OptionKind

VOLATILE: Final = "volatile"
_SWITCH: Final = ("on", "off")


def _choice(name: str, default: str | None, text: str, choices: tuple[str, ...] = _SWITCH) -> Option:
    return Option(name=name, kind=OptionKind.CHOICE, choices=choices, default=default, help=text)


# An image must not steer the filesystem, so what redirects and metadata-only copies mean is off unless asked for;
# with them an upper directory cannot be turned into a layer either. Without a default it is the kernel's own.
OPTIONS: Final = (
    _choice("index", "off", "keep hard links of image files together when one is changed"),
    _choice("metacopy", "off", "copy only metadata when an owner or mode changes; not for commit"),
    _choice(
        "redirect_dir",
        "nofollow",
        "rename directories of the image without copying them; not for commit",
        (*_SWITCH, "follow", "nofollow"),
    ),
    _choice(VOLATILE, None, "on: never wait for the disk; after a crash of the host it is lost"),
    _choice("xino", None, "make inode numbers unique across filesystems", (*_SWITCH, "auto")),
)


def mount_options(given: Mapping[str, Any], *, ephemeral: bool) -> tuple[tuple[str, str | None], ...]:
    """Return the mount options for the driver's.

    Args:
        given: Every option.
        ephemeral: Nothing need survive. Unless said otherwise it is volatile then: unmounting syncs the whole
            filesystem of the upper directory else, 5 to 10 ms and more.
    """
    chosen = dict(given)
    volatile = chosen.pop(VOLATILE)
    found: list[tuple[str, str | None]] = [(name, value) for name, value in chosen.items() if value is not None]
    if volatile == "on" or (volatile is None and ephemeral):
        found.append((VOLATILE, None))
    return tuple(found)

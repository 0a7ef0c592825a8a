"""The driver's options: what each may be, and what becomes of it as a mount option; see overlayfs.rst."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct
from plugengine.errors import UsageError
from plugengine.model import Option

VOLATILE: Final = "volatile"


class _Choice(Struct, frozen=True, kw_only=True):
    values: tuple[str, ...]
    default: str | None  # None: the kernel's own
    help: str


# An image must not steer the filesystem, so what redirects and metadata-only copies mean is off unless asked for;
# with them an upper directory cannot be turned into a layer either.
_CHOICES: Final[Mapping[str, _Choice]] = {
    "index": _Choice(
        values=("on", "off"), default="off", help="keep hard links of image files together when one is changed"
    ),
    "metacopy": _Choice(
        values=("on", "off"), default="off", help="copy only metadata when an owner or mode changes; not for commit"
    ),
    "redirect_dir": _Choice(
        values=("on", "off", "follow", "nofollow"),
        default="nofollow",
        help="rename directories of the image without copying them; not for commit",
    ),
    VOLATILE: _Choice(
        values=("on", "off"), default="off", help="never wait for the disk; after a crash of the host it is lost"
    ),
    "xino": _Choice(values=("on", "off", "auto"), default=None, help="make inode numbers unique across filesystems"),
}

OPTIONS: Final = tuple(
    Option(name=name, default=choice.default, help=f"{'|'.join(choice.values)}: {choice.help}")
    for name, choice in _CHOICES.items()
)


def mount_options(given: Mapping[str, str]) -> tuple[tuple[str, str | None], ...]:
    """Return the mount options for the driver options given and the defaults of the others.

    Raises:
        UsageError: An option or its value is not known; the hint has those that are.
    """
    for name, value in given.items():
        _check(name, value)
    chosen = {name: given.get(name, choice.default) for name, choice in _CHOICES.items()}
    found: list[tuple[str, str | None]] = []
    if chosen.pop(VOLATILE) == "on":
        found.append((VOLATILE, None))
    found += [(name, value) for name, value in chosen.items() if value is not None]
    return tuple(found)


def _check(name: str, value: str) -> None:
    choice = _CHOICES.get(name)
    if choice is None:
        import difflib

        close = difflib.get_close_matches(name, _CHOICES, n=1)
        hint = f"known: {', '.join(_CHOICES)}" + (f"; did you mean {close[0]}?" if close else "")
        raise UsageError(f"storage option {name}: not known to driver overlay", hint=hint)
    if value not in choice.values:
        raise UsageError(f"storage option {name}={value}: not {' or '.join(choice.values)}")

"""Read namespace modes, networks, id maps and `--security-opt`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from plugengine.cli.parse.environment import read_text
from plugengine.cli.parse.errors import FlagError
from plugengine.cli.parse.quantities import parse_bool

# What each namespace may be besides private; see namespaces(7).
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "pid": ("private", "host", "container:NAME"),
    "ipc": ("private", "shareable", "host", "container:NAME"),
    "uts": ("private", "host", "container:NAME"),
    "cgroup": ("private", "host"),
}
_LARGEST_ID: Final = 2**32 - 2


class SecurityOptions(Struct, frozen=True, kw_only=True):
    """What the `--security-opt` of one command line say together."""

    seccomp: str = "default"
    no_new_privileges: bool = False
    unmasked: bool = False


def parse_mode(flag: str, namespace: str, text: str) -> str:
    """Return the mode of a namespace: private, host or container:NAME.

    Raises:
        FlagError: Another word, or no name.
    """
    choices = _CHOICES[namespace]
    kind, colon, name = text.partition(":")
    if kind == "container" and "container:NAME" in choices:
        if not name:
            raise FlagError(flag, text, "no container named", example="container:web")
        return text
    if colon or text not in choices:
        raise FlagError(flag, text, f"not {', '.join(choices)}", example="host")
    # Every ipc namespace can be joined by way of /proc, so shareable is what private is already.
    return "private" if text == "shareable" else text


def parse_network(flag: str, text: str) -> tuple[str | None, str | None]:
    """Return the network or its driver (None: the default) and the mode of the net namespace (None: private).

    Raises:
        FlagError: Several networks or their options in one value, or no name.
    """
    if text in ("", "default"):
        return None, None
    if text.startswith("container:"):
        if text == "container:":
            raise FlagError(flag, text, "no container named", example="container:web")
        return None, text
    if "=" in text or "," in text:
        raise FlagError(flag, text, "options of a network are given with --net-opt and --ip", example="none")
    return text, None


def parse_userns(flag: str, text: str) -> str:
    """Return "host", "auto" or "uid:gid:size".

    Raises:
        FlagError: Another word, or numbers no id can be.
    """
    if text in ("host", "auto"):
        return text
    parts = text.split(":")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) <= 10 for part in parts):
        raise FlagError(flag, text, "not host, auto or UID:GID:SIZE", example="100000:100000:65536")
    uid, gid, size = (int(part) for part in parts)
    if not (uid and gid and size) or max(uid, gid) + size - 1 > _LARGEST_ID:
        raise FlagError(flag, text, f"ids begin above 0 and end at {_LARGEST_ID}", example="100000:100000:65536")
    return text


def parse_security(flag: str, values: Iterable[str], *, read: Callable[[str, str], str] = read_text) -> SecurityOptions:
    """Return what all `--security-opt` say; a later one wins.

    Args:
        flag: For messages.
        values: In order.
        read: Returns the text of a file, for seccomp profiles.

    Raises:
        FlagError: An option the engine does not know, or cannot enforce.
    """
    found = SecurityOptions()
    for text in values:
        name, separator, value = _split(text)
        if name == "seccomp" and value:
            found = replace(found, seccomp=_seccomp(flag, value, read))
        elif name == "no-new-privileges":
            found = replace(found, no_new_privileges=not separator or parse_bool(f"{flag} {name}", value))
        elif name == "systempaths" and value == "unconfined":
            found = replace(found, unmasked=True)
        elif (name, value) not in (("apparmor", "unconfined"), ("label", "disable")):
            # The two are what every container is here already; anything else of theirs would not be enforced.
            raise FlagError(flag, text, _why(name), example="seccomp=unconfined")
    return found


def _split(text: str) -> tuple[str, str, str]:
    name, separator, value = text.partition("=")
    return (name, separator, value) if separator else text.partition(":")


def _seccomp(flag: str, value: str, read: Callable[[str, str], str]) -> str:
    if value in ("builtin", "default"):
        return "default"
    return value if value == "unconfined" else read(f"{flag} seccomp", value)


def _why(name: str) -> str:
    if name in ("apparmor", "label"):
        return f"{name} profiles are not supported"
    return "not seccomp=unconfined|FILE, no-new-privileges or systempaths=unconfined"

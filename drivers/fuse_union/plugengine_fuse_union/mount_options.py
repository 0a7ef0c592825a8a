"""Parse the words and mount options of `pe-fuse-union`; pure, as it only computes values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Final

from msgspec import Struct
from plugengine import quantities
from plugengine.errors import UsageError
from plugengine.kernel.mount import (
    MS_DIRSYNC,
    MS_LAZYTIME,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_RDONLY,
    MS_RELATIME,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
)

from plugengine_fuse_union.owners import Range

# mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS"; each name sets a flag, its opposite clears it.
_FLAG_SET: Final = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "sync": MS_SYNCHRONOUS,
    "dirsync": MS_DIRSYNC,
    "noatime": MS_NOATIME,
    "nodiratime": MS_NODIRATIME,
    "relatime": MS_RELATIME,
    "strictatime": MS_STRICTATIME,
    "lazytime": MS_LAZYTIME,
    "nosymfollow": MS_NOSYMFOLLOW,
}
_FLAG_CLEARED: Final = {
    "rw": MS_RDONLY,
    "suid": MS_NOSUID,
    "dev": MS_NODEV,
    "exec": MS_NOEXEC,
    "async": MS_SYNCHRONOUS,
    "atime": MS_NOATIME,
    "diratime": MS_NODIRATIME,
    "norelatime": MS_RELATIME,
    "nostrictatime": MS_STRICTATIME,
    "nolazytime": MS_LAZYTIME,
    "symfollow": MS_NOSYMFOLLOW,
}
# Passed on to the kernel as they are; mount(8), "context=context".
_LABELS: Final = frozenset({"context", "fscontext", "defcontext", "rootcontext"})
# Of other mount programs. They change who owns or may do what: to ignore them would be to lie.
_REFUSED: Final = frozenset({"squash_to_root", "squash_to_uid", "squash_to_gid", "xattr_permissions"})
_IDS_PER_RANGE: Final = 3
# Words that mount helpers are given and that say nothing to this one; mount(8), "EXTERNAL HELPERS".
_IGNORED_WORDS: Final = frozenset({"-n", "-s", "-v"})
_IGNORED_WITH_VALUE: Final = ("-t", "-N")
_FOREGROUND: Final = frozenset({"-f", "-d", "--foreground"})
_FLAG_WORDS: Final = {"-r": "ro", "--read-only": "ro", "-w": "rw"}
_MOST_PLACES: Final = 2


class CommandLine(Struct, frozen=True, kw_only=True):
    """What the words say; `target` is None for --help and --version."""

    target: str | None
    source: str | None = None
    options: str = ""
    foreground: bool = False
    show: str | None = None  # "help" or "version"


class MountOptions(Struct, frozen=True, kw_only=True):
    """What the mount options say; paths as they were written, without their escapes."""

    lowers: tuple[str, ...]  # topmost first
    upper: str | None = None
    work: str | None = None
    flags: int = 0  # MS_*
    durable: bool = True
    passthrough: bool = True
    follow: bool = True  # redirects of directories, as the kernel's overlayfs does if nothing is said
    metacopy: bool = False
    uids: tuple[Range, ...] = ()
    gids: tuple[Range, ...] = ()
    size: int | None = None  # bytes that the upper directory may take
    trace: str | None = None
    labels: tuple[str, ...] = ()  # security contexts, as they were written


def parse_words(words: Sequence[str]) -> CommandLine:
    """Return what a command line says; options and places in any order, as mount(8) and fuse programs are called.

    Raises:
        UsageError: A word is unknown, or there is no mount point, or more than a source and a mount point.
    """
    places: list[str] = []
    options: list[str] = []
    foreground = False
    rest = iter(words)
    for word in rest:
        if word in {"-h", "--help", "-V", "--version"}:
            return CommandLine(target=None, show="version" if word in {"-V", "--version"} else "help")
        if word == "--":
            places += rest
        elif word.startswith("-o"):
            options.append(word[2:] or _value(word, rest))
        elif word in _FOREGROUND:
            foreground = True
        elif word in _FLAG_WORDS:
            options.append(_FLAG_WORDS[word])
        elif word.startswith(_IGNORED_WITH_VALUE):
            _ = word[2:] or _value(word, rest)
        elif word.startswith("-") and word not in _IGNORED_WORDS:
            raise UsageError(f"word {word}: unknown")
        elif word not in _IGNORED_WORDS:
            places.append(word)
    if not 1 <= len(places) <= _MOST_PLACES:
        raise UsageError(f"a mount point, or a source and a mount point, are needed; there are {len(places)} words")
    source = places[0] if len(places) == _MOST_PLACES else None
    return CommandLine(target=places[-1], source=source, options=",".join(options), foreground=foreground)


def _value(word: str, rest: Iterator[str]) -> str:
    value = next(rest, None)
    if value is None:
        raise UsageError(f"word {word}: needs a value")
    return value


def is_remount(text: str) -> bool:
    """Tell whether a mount that is there is to be changed; mount(8), "remount"."""
    return "remount" in split_options(text)


def changed_flags(text: str, flags: int) -> int:
    """Return the flags of a mount after these options, of which those that are no flags say nothing."""
    return reduce(_changed, split_options(text), flags)


def _changed(flags: int, option: str) -> int:
    return (flags | _FLAG_SET.get(option, 0)) & ~_FLAG_CLEARED.get(option, 0)


def parse_options(text: str) -> MountOptions:
    """Return what the text after -o says; of options given twice the last counts, unknown ones are ignored.

    Raises:
        UsageError: A value cannot be understood, an option cannot be left out, or cannot be ignored.
    """
    values: dict[str, object] = {"lowers": ()}
    labels, flags = [], 0
    for option in split_options(text):
        name, equals, value = option.partition("=")
        if name in _REFUSED and not (name == "xattr_permissions" and value == "0"):
            raise UsageError(f"mount option {name}: not supported")
        if name in _LABELS:
            labels.append(option)
        elif not equals:
            flags = _changed(flags, name)
        if name == "lowerdir+" and equals:  # one more layer, below the others; Linux 6.5
            values["lowers"] = (*_layers(values["lowers"]), _path(name, value))
        elif name in _VALUES:
            field, convert = _VALUES[name]
            values[field] = convert(name, value)
    found = MountOptions(**values, flags=flags, labels=tuple(labels))  # type: ignore[arg-type]  # by _VALUES
    _check(found)
    return found


def _check(options: MountOptions) -> None:
    if not options.lowers:
        raise UsageError("mount option lowerdir: missing", hint="-o lowerdir=TOP:…:BOTTOM[,upperdir=U,workdir=W]")
    if options.upper is not None and options.work is None:
        raise UsageError("mount option workdir: missing", hint="an empty directory on the filesystem of upperdir")
    if options.size is not None and options.upper is None:
        raise UsageError("mount option size: nothing to limit without upperdir")
    if bool(options.uids) != bool(options.gids):
        raise UsageError("mount options uidmapping and gidmapping: one without the other")


def split_options(text: str) -> list[str]:
    r"""Return the options between commas; `\,` does not end one, nor does a comma in a value in double quotes.

    Escapes are kept, as what they mean depends on the option.
    """
    found, start, place = [], 0, 0
    while place < len(text):
        if text[place] == "\\":
            place += 2
        elif text.startswith('="', place) and "=" not in text[start:place] and text.find('"', place + 2) > 0:
            place = text.index('"', place + 2) + 1
        elif text[place] == ",":
            found.append(text[start:place])
            place = start = place + 1
        else:
            place += 1
    return [option for option in [*found, text[start:]] if option]


def split_layers(value: str) -> tuple[str, ...]:
    r"""Return the paths between colons without their escapes: `\:` is a colon, `\,` a comma, `\\` a backslash."""
    found, path, place = [], "", 0
    while place < len(value):
        if value[place] == "\\" and place + 1 < len(value):
            path += value[place + 1]
            place += 1
        elif value[place] == ":":
            found.append(path)
            path = ""
        else:
            path += value[place]
        place += 1
    return (*found, path)


def unescape(value: str) -> str:
    """Return a value without the backslashes that escape what follows them."""
    found, place = "", 0
    while place < len(value):
        place += value[place] == "\\" and place + 1 < len(value)
        found += value[place]
        place += 1
    return found


def _layers(value: object) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()


def _lowers(name: str, value: str) -> tuple[str, ...]:
    paths = split_layers(value)
    if not all(paths):
        raise UsageError(f"mount option {name}={value}: a path is empty")
    return paths


def _path(name: str, value: str) -> str:
    path = unescape(value)
    if not path:
        raise UsageError(f"mount option {name}: a path is missing")
    return path


def _ranges(name: str, value: str) -> tuple[Range, ...]:
    r"""Return the rows of `guest:host:size[:guest:host:size …]`."""
    words = value.split(":")
    if len(words) % _IDS_PER_RANGE or not all(word.isascii() and word.isdigit() for word in words):
        raise UsageError(f"mount option {name}={value}: not of the form ID:HOST_ID:SIZE[:…]")
    numbers = iter(map(int, words))
    return tuple(zip(numbers, numbers, numbers, strict=True))


def _size(name: str, value: str) -> int:
    try:
        found = quantities.size(value)
    except ValueError as exc:
        raise UsageError(f"mount option {name}={value}: {exc}") from None
    if not found:
        raise UsageError(f"mount option {name}={value}: nothing could be written")
    return found


def _is_on(name: str, value: str) -> bool:
    return value not in {"0", "off"}


def _follows(name: str, value: str) -> bool:
    return value != "nofollow"


def _is_off(name: str, value: str) -> bool:
    return False


_VALUES: Final[dict[str, tuple[str, Callable[[str, str], object]]]] = {
    "lowerdir": ("lowers", _lowers),
    "upperdir": ("upper", _path),
    "workdir": ("work", _path),
    "uidmapping": ("uids", _ranges),
    "gidmapping": ("gids", _ranges),
    "size": ("size", _size),
    "trace": ("trace", _path),
    "passthrough": ("passthrough", _is_on),
    "redirect_dir": ("follow", _follows),
    "metacopy": ("metacopy", _is_on),
    "fsync": ("durable", _is_on),
    "volatile": ("durable", _is_off),
}

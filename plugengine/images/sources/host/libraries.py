"""Find the shared libraries of programs where the dynamic loader would; see ld.so(8)."""

from __future__ import annotations

import os
import struct

from msgspec import Struct

from plugengine.images.sources.host.elf import Elf, read_elf

_CACHE = "/etc/ld.so.cache"
# sysdeps/generic/dl-cache.h of glibc: magic and version, count, length of the strings, flags, padding
_CACHE_MAGIC = b"glibc-ld.so.cache1.1"
_CACHE_HEADER = struct.Struct("=20sIIB3x4I")
_CACHE_ENTRY = struct.Struct("=iIIIQ")  # flags, name, path, osversion, hwcap
_OLD_CACHE_MAGIC = b"ld.so-1.7.0"  # a cache for two generations: the new one follows the old one
_DEFAULT = ("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib")


class Library(Struct, frozen=True):
    """One library found: by the name it is asked for, and where."""

    name: str
    path: str
    default: bool  # in a directory the loader searches by itself, without a cache or a run path


class Libraries:
    """Answers "which files does this file need"; every answer is remembered."""

    def __init__(self) -> None:
        self._cache: dict[str, list[str]] | None = None
        self._elf: dict[str, Elf | None] = {}

    def elf(self, path: str) -> Elf | None:
        """Parse a file once."""
        if path not in self._elf:
            self._elf[path] = read_elf(path)
        return self._elf[path]

    def closure(self, program: str) -> tuple[str | None, list[Library], list[str]]:
        """Return the interpreter, all libraries a program needs in turn, and the names not found."""
        elf = self.elf(program)
        if elf is None:
            return None, [], []
        found: dict[str, Library] = {}
        missing: list[str] = []
        pending: list[tuple[str, tuple[str, ...]]] = [(program, ())]
        while pending:
            path, inherited = pending.pop(0)
            one = self.elf(path)
            if one is None:
                continue
            rpath = (*(_expand(one.rpath, path) if not one.runpath else ()), *inherited)
            for name in one.needed:
                if name in found or name in missing:
                    continue
                library = self._find(name, one, path, rpath, elf.interpreter)
                if library is None:
                    missing.append(name)
                else:
                    found[name] = library
                    pending.append((library.path, rpath))
        return elf.interpreter, list(found.values()), missing

    def _find(
        self, name: str, user: Elf, user_path: str, rpath: tuple[str, ...], interpreter: str | None
    ) -> Library | None:
        if "/" in name:
            return Library(name, name, default=True) if self._fits(name, user) else None
        default = default_directories(interpreter)
        for directory in (*rpath, *_expand(user.runpath, user_path)):
            if self._fits(path := f"{directory}/{name}", user):
                return Library(name, path, default=True)  # the same run path will find it in the guest
        for directory in default:
            if self._fits(path := f"{directory}/{name}", user):
                return Library(name, path, default=True)
        for path in self._cached(name):
            if self._fits(path, user):
                return Library(name, path, default=False)
        return None

    def _fits(self, path: str, user: Elf) -> bool:
        if not os.path.isfile(path):
            return False
        elf = self.elf(path)
        return elf is not None and elf.kind == user.kind

    def _cached(self, name: str) -> list[str]:
        if self._cache is None:
            self._cache = _read_cache()
        return self._cache.get(name, [])


def default_directories(interpreter: str | None) -> tuple[str, ...]:
    """Return where a loader looks by itself: beside itself, and the usual places.

    Debian's loader searches /lib/x86_64-linux-gnu, Fedora's /lib64, musl's /lib: each time where it lives.
    """
    if interpreter is None:
        return _DEFAULT
    beside = os.path.dirname(os.path.realpath(interpreter))
    return tuple(dict.fromkeys((beside, "/usr" + beside if not beside.startswith("/usr") else beside, *_DEFAULT)))


def _expand(paths: tuple[str, ...], user: str) -> tuple[str, ...]:
    origin = os.path.dirname(os.path.realpath(user))
    return tuple(
        os.path.normpath(path.replace("${ORIGIN}", origin).replace("$ORIGIN", origin))
        for path in paths
        if path.startswith(("/", "$ORIGIN", "${ORIGIN}"))
    )


def _read_cache() -> dict[str, list[str]]:
    """Parse ldconfig's cache; an unknown format counts as an empty cache."""
    try:
        with open(_CACHE, "rb") as file:
            content = file.read()
    except OSError:
        return {}
    start = content.find(_CACHE_MAGIC) if content.startswith((_CACHE_MAGIC, _OLD_CACHE_MAGIC)) else -1
    if start < 0:
        return {}
    content = content[start:]
    found: dict[str, list[str]] = {}
    try:
        count = _CACHE_HEADER.unpack_from(content)[1]
        for number in range(count):
            offset = _CACHE_HEADER.size + number * _CACHE_ENTRY.size
            _, name, path, _, hwcap = _CACHE_ENTRY.unpack_from(content, offset)
            if not hwcap:  # variants for newer processors: the plain one runs everywhere
                found.setdefault(_string(content, name), []).append(_string(content, path))
    except (struct.error, ValueError):
        return {}
    return found


def _string(content: bytes, offset: int) -> str:
    return content[offset : content.index(b"\0", offset)].decode()

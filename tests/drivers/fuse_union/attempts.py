"""Calls whose outcome can be compared, be it a result or an error."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.drivers.fuse_union.pictures import shown


def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a call, or the name of the error."""
    try:
        return call(*arguments)
    except OSError as exc:
        return os.strerror(exc.errno or 0)


def as_user(uid: int, call: Callable[[], Any]) -> Any:
    """Return what `attempt` returns to an ordinary user."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.write(writer, repr(attempt(call)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with open(reader, "rb") as stream:
        return stream.read()


def opened(path: Path | str, flags: int, act: Callable[[int], Any], mode: int = 0o644) -> Any:
    """Return what is done with an open file."""
    fd = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        return act(fd)
    finally:
        os.close(fd)


def entry(path: Path) -> Any:
    """Return what is visible of a path."""
    return attempt(lambda: shown(os.lstat(path)))

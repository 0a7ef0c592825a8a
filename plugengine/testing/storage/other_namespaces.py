"""Run parts of a case in another place: with mounts of their own, or as root of a user namespace."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from plugengine.kernel.mount import MS_PRIVATE, MS_REC, mount
from plugengine.kernel.process import CLONE_NEWNS, CLONE_NEWUSER, setns, unshare
from plugengine.model import UserMap
from plugengine.mounts import user_namespace

_T = TypeVar("_T")


def with_own_mounts(act: Callable[[], _T]) -> Callable[[], _T]:
    """Return a function for a child process: it enters a mount namespace of its own and acts."""

    def run() -> _T:
        unshare(CLONE_NEWNS)
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        return act()

    return run


def as_guest(user_map: UserMap, act: Callable[[], _T]) -> Callable[[], _T]:
    """Return a function for a child process: it becomes root of a user namespace with this map and acts."""

    def run() -> _T:
        setns(user_namespace(user_map), CLONE_NEWUSER)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        return act()

    return run

"""Run parts of a case with mounts of their own, as containers' monitors do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from plugengine.kernel.mount import MS_PRIVATE, MS_REC, mount
from plugengine.kernel.process import CLONE_NEWNS, unshare

_T = TypeVar("_T")


def with_own_mounts(act: Callable[[], _T]) -> Callable[[], _T]:
    """Return a function for a child process: it enters a mount namespace of its own and acts."""

    def run() -> _T:
        unshare(CLONE_NEWNS)
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        return act()

    return run

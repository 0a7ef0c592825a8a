"""A container and a plain directory that begin alike and are changed alike; every difference is the driver's."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from typing import Any

from plugengine.testing.cases import fail
from plugengine.testing.storage.described import Items
from plugengine.testing.storage.snapshot import expect_same
from plugengine.testing.storage.subject import Subject

Change = Callable[[str], Any]  # takes the root to work on; what it returns or the OSError it raises is compared


class Pair:
    """A mounted container and the plain directory to compare it with.

    Args:
        subject: The driver's.
        layers: What both begin with, lowest first.
    """

    def __init__(self, subject: Subject, *layers: Items) -> None:
        layers = tuple(tuple(items) for items in layers)
        self._subject = subject
        self.chain = subject.chain(*layers)
        self.container = subject.mounted(self.chain)
        self.plain = subject.plain(*layers)
        self.compare("before any change")

    def do(self, *changes: Change) -> None:
        """Do the same to both, in order; compare what comes back, and then the trees."""
        for change in changes:
            seen, wanted = outcome(change, self.container.root), outcome(change, self.plain)
            name = change.__name__.strip("_").replace("_", " ")
            if seen != wanted:
                fail(f"{name}: {seen}, on a plain directory {wanted}")
            self.compare(f"after: {name}")

    def compare(self, when: str) -> None:
        """Raise Failure unless the trees are the same."""
        expect_same(self.container.snapshot(), self._subject.snapshot(self.plain), when)

    def remount(self) -> None:
        """Unmount, mount, and compare again."""
        self.container.remount()
        self.compare("after a remount")

    def finish(self) -> None:
        """Compare again after a remount; the layers must be as they were."""
        self.remount()
        self._subject.expect_layers_unchanged()


def same(subject: Subject, layers: tuple[Items, ...], *changes: Change) -> None:
    """Do changes to a container over layers and to a plain directory; compare after each, and after a remount."""
    pair = Pair(subject, *layers)
    pair.do(*changes)
    pair.finish()


def outcome(act: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns, or the name of the error number it fails with."""
    try:
        return act(*arguments)
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, str(exc.errno))


def move(source: str, target: str) -> None:
    """Rename; where a union cannot (EXDEV, as overlayfs.rst allows for directories of layers), copy as mv(1) does."""
    try:
        os.rename(source, target)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        shutil.copytree(source, target, symlinks=True)
        shutil.rmtree(source)

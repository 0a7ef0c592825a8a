"""POSIX: a table of operations; each must end in a container as on a plain directory of the same filesystem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from plugengine.testing.cases import CaseFunction, case, expect_equal
from plugengine.testing.storage import posix_attributes, posix_changes, posix_files, posix_names
from plugengine.testing.storage.described import directory, fifo, file, hardlink, symlink
from plugengine.testing.storage.pair import outcome
from plugengine.testing.storage.snapshot import expect_same
from plugengine.testing.storage.subject import Subject

Operation = Callable[[str], Any]  # works below a root; what it returns or raises must be the same on both

LOWER: Final = (
    directory("", 0o755),
    file("f", "content of the layer\n", 0o644),
    file("g", "another file\n", 0o600),
    file("program", "#!/bin/true\n", 0o755),
    file("linked", "l\n"),
    hardlink("linked-too", "linked"),
    directory("d", 0o755),
    file("d/x", "x\n"),
    directory("d/sub"),
    directory("e", 0o755),
    directory("full"),
    file("full/inside", "i\n"),
    symlink("to-f", "f"),
    symlink("to-d", "d"),
    symlink("nowhere", "no/such"),
    symlink("loop", "loop"),
    fifo("pipe", 0o644),
)
UPPER: Final = (directory("d", 0o755), file("d/y", "y of the upper layer\n"), file("g", "of the upper layer\n", 0o600))


def _case_of(operation: Operation) -> CaseFunction:
    """Return the case of an operation: done twice over, in a container and beside it, and compared."""

    def compare(subject: Subject) -> None:
        container, plain = subject.mounted(subject.chain(LOWER, UPPER)), subject.plain(LOWER, UPPER)
        seen, wanted = outcome(operation, container.root), outcome(operation, plain)
        expect_equal(seen, wanted, "in the container, and what a plain directory gives")
        expect_same(container.snapshot(), subject.snapshot(plain), "the trees afterwards")
        container.remount()
        expect_same(container.snapshot(), subject.snapshot(plain), "the trees after a remount")

    compare.__doc__ = operation.__doc__
    return compare


for _operation in (
    *posix_names.OPERATIONS,
    *posix_files.OPERATIONS,
    *posix_attributes.OPERATIONS,
    *posix_changes.OPERATIONS,
):
    case(f"storage.posix.{_operation.__name__.replace('_', '-')}")(_case_of(_operation))

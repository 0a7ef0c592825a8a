"""A small filesystem for a driver to fill: tmpfs where the driver works on it, else one in a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from plugengine.errors import NotSupportedError
from plugengine.kernel.mount import MNT_DETACH, mount, umount2
from plugengine.model import Host, HostPath
from plugengine.testing.case_directory import loop_filesystem
from plugengine.testing.cases import Unsuitable
from plugengine.testing.storage.subject import Subject

_MIB: Final = 1 << 20
SIZE_BYTES: Final = 48 * _MIB
# The least size each takes, and what mkfs must be told to make it so small or to leave nothing to root alone.
_IN_A_FILE: Final[dict[str, tuple[int, tuple[str, ...]]]] = {
    "ext4": (SIZE_BYTES, ("-m", "0")),
    "btrfs": (SIZE_BYTES, ("--mixed",)),
    "xfs": (300 * _MIB, ()),
}


@contextmanager
def small_filesystem(subject: Subject) -> Iterator[Subject]:
    """Lend a subject of the same driver whose roots lie on a small filesystem of its own.

    Raises:
        Unsuitable: None can be made here that the driver works on.
    """
    place = HostPath(f"{subject.scratch}/small")
    os.mkdir(place)
    for fstype in ("tmpfs", *_IN_A_FILE):
        if not _mount(fstype, f"{subject.scratch}/image.{fstype}", place):
            continue
        host = Host(root=HostPath(f"{place}/root"), run_root=HostPath(f"{place}/run"), kernel=subject.host.kernel)
        os.mkdir(host.root, 0o711)
        try:
            if not subject.driver.probe(host):
                small = Subject(subject.driver, host, place, subject.options)
                with small:
                    yield small
                subject.adopt(small)
                return
        finally:
            umount2(place, MNT_DETACH)
    raise Unsuitable("no small filesystem can be made here that the driver works on")


def fill(path: str) -> None:
    """Write a file until there is no space left on its filesystem; it may be too full even for that."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        for chunk in (_MIB, 4096, 1):
            try:
                while True:
                    os.write(fd, b"\xa5" * chunk)
                    os.fdatasync(fd)  # where space is only promised to a write, it may be refused here
            except OSError:
                continue
    finally:
        os.close(fd)


def _mount(fstype: str, image: str, place: HostPath) -> bool:
    """Make and mount a filesystem; False: this host cannot."""
    try:
        if fstype == "tmpfs":
            mount("tmpfs", place, "tmpfs", 0, f"size={SIZE_BYTES},mode=0711")
            return True
        size, options = _IN_A_FILE[fstype]
        with loop_filesystem(fstype, HostPath(image), size, *options) as device:
            mount(device, place, fstype, 0, None)
    except (NotSupportedError, OSError):
        return False
    return True

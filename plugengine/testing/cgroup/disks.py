"""Cgroup cases: rates of disks, on a loop device of the case's own."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from plugengine.kernel.loop import loop_attach
from plugengine.model import DeviceRate, Limits
from plugengine.testing.cases import Unsuitable, case, expect
from plugengine.testing.cgroup.group import Group
from plugengine.testing.cgroup.processes import MIB
from plugengine.testing.cgroup.subject import Subject

_DISK_BYTES = 16 * MIB
_BLOCK = 128 << 10
_SMALL_BLOCK = 4096
_RATE = MIB
_OPERATIONS_A_SECOND = 20
_LEAST_S = 0.7  # of what the rate says, one second; the kernel lets the first tenth pass at once


@contextmanager
def _disk(subject: Subject) -> Iterator[tuple[str, DeviceRate]]:
    """Lend a loop device: its path, and a rate for it of 0."""
    image = os.open(f"{subject.scratch}/disk", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with ExitStack() as undo:
        undo.callback(os.close, image)
        os.posix_fallocate(image, 0, _DISK_BYTES)
        try:
            path, device = loop_attach(image)
        except OSError as exc:
            raise Unsuitable(f"no loop device: {exc.strerror} ({exc.filename})") from exc
        undo.callback(os.close, device)
        number = os.fstat(device).st_rdev
        yield path, DeviceRate(major=os.major(number), minor=os.minor(number), rate=0)


def _transfer(path: str, *, write: bool, size: int, times: int) -> Callable[[], None]:
    """Return a function that moves so many blocks past the page cache, whose pages version 1 lays to nobody's account.

    See Documentation/admin-guide/cgroup-v1/blkio-controller.rst.
    """

    def act() -> None:
        fd = os.open(path, (os.O_WRONLY if write else os.O_RDONLY) | os.O_DIRECT | os.O_CLOEXEC)
        block = mmap.mmap(-1, size)
        for number in range(times):
            if write:
                os.pwritev(fd, [block], number * size)
            else:
                os.preadv(fd, [block], number * size)
        os.close(fd)

    return act


def _expect_slowed(group: Group, limits: Limits, act: Callable[[], None], what: str) -> None:
    start = time.monotonic()
    expect(group.run(act) == 0, f"{what} without a limit failed")
    free = time.monotonic() - start
    group.limit(limits)
    start = time.monotonic()
    expect(group.run(act) == 0, f"{what} with a limit failed")
    passed = time.monotonic() - start
    expect(
        passed > _LEAST_S + min(free, 0.1),
        f"{what} for a second by the limit took {passed:.2f} s, {free:.2f} s without",
    )


def _at(rate: DeviceRate, value: int) -> tuple[DeviceRate, ...]:
    return (DeviceRate(major=rate.major, minor=rate.minor, rate=value),)


@case("cgroup.disk.write-bytes")
def the_rate_of_bytes_written_holds(subject: Subject) -> None:
    """A second's worth of bytes by the limit takes about a second to write."""
    with _disk(subject) as (path, rate):
        act = _transfer(path, write=True, size=_BLOCK, times=_RATE // _BLOCK)
        _expect_slowed(subject.group(), Limits(write_bps=_at(rate, _RATE)), act, "writing")


@case("cgroup.disk.read-bytes")
def the_rate_of_bytes_read_holds(subject: Subject) -> None:
    """A second's worth of bytes by the limit takes about a second to read."""
    with _disk(subject) as (path, rate):
        act = _transfer(path, write=False, size=_BLOCK, times=_RATE // _BLOCK)
        _expect_slowed(subject.group(), Limits(read_bps=_at(rate, _RATE)), act, "reading")


@case("cgroup.disk.write-operations")
def the_rate_of_writes_holds(subject: Subject) -> None:
    """A second's worth of write operations by the limit takes about a second."""
    with _disk(subject) as (path, rate):
        act = _transfer(path, write=True, size=_SMALL_BLOCK, times=_OPERATIONS_A_SECOND)
        _expect_slowed(subject.group(), Limits(write_iops=_at(rate, _OPERATIONS_A_SECOND)), act, "writing")


@case("cgroup.disk.read-operations")
def the_rate_of_reads_holds(subject: Subject) -> None:
    """A second's worth of read operations by the limit takes about a second."""
    with _disk(subject) as (path, rate):
        act = _transfer(path, write=False, size=_SMALL_BLOCK, times=_OPERATIONS_A_SECOND)
        _expect_slowed(subject.group(), Limits(read_iops=_at(rate, _OPERATIONS_A_SECOND)), act, "reading")


@case("cgroup.disk.all-rates")
def all_rates_of_a_disk_hold_at_once(subject: Subject) -> None:
    """A limit of one rate does not take away that of another of the same disk."""
    with _disk(subject) as (path, rate):
        group = subject.group()
        limits = Limits(
            write_bps=_at(rate, _RATE),
            read_bps=_at(rate, 64 * _RATE),
            write_iops=_at(rate, 10_000),
            read_iops=_at(rate, 10_000),
        )
        act = _transfer(path, write=True, size=_BLOCK, times=_RATE // _BLOCK)
        _expect_slowed(group, limits, act, "writing")


@case("cgroup.disk.stats")
def the_bytes_are_counted(subject: Subject) -> None:
    """Bytes written to a disk that has a limit are in the stats of the group that wrote them, where they are kept."""
    with _disk(subject) as (path, rate):
        group, idle = subject.group(), subject.group()
        group.limit(Limits(write_bps=_at(rate, 64 * _RATE)))
        before = group.stats().write_bytes
        group.run(_transfer(path, write=True, size=_BLOCK, times=_RATE // _BLOCK))
        after = group.stats().write_bytes
        if after is None:
            raise Unsuitable("the driver says that this host does not account for what is written")
        expect(after - (before or 0) >= _RATE, f"{_RATE} bytes were written, {after - (before or 0)} are counted")
        expect(not idle.stats().write_bytes, "bytes written are counted in a group that wrote none")

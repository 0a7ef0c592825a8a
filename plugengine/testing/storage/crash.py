"""Crashes: a process that uses the driver is killed at every step, and whoever comes after it repairs what it left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from plugengine.testing.cases import case, expect
from plugengine.testing.children import Child, count_steps, in_child, kill_at_step, spread
from plugengine.testing.storage.container import Container
from plugengine.testing.storage.guest_work import LAYERS, work
from plugengine.testing.storage.other_namespaces import with_own_mounts
from plugengine.testing.storage.snapshot import Entry, expect_same
from plugengine.testing.storage.subject import Subject

# Where a verb takes more steps, as many of them at even distances.
_MOST_STEPS: Final = 32
_MOMENTS: Final = 8


@case("storage.crash.prepare", deadline_s=60)
def prepare(subject: Subject) -> None:
    """Prepare killed at any step: remove without a record takes all away, and a new prepare works."""
    _at_every_step(subject, prepared=False, act=lambda container: container.prepare(), repair=_remove_without_record)


@case("storage.crash.prepare-then-gc", deadline_s=60)
def prepare_then_gc(subject: Subject) -> None:
    """Prepare killed at any step: once the core has removed its directory, gc takes away whatever is elsewhere."""
    _at_every_step(subject, prepared=False, act=lambda container: container.prepare(), repair=_collect)


@case("storage.crash.prepare-again", deadline_s=60)
def prepare_again(subject: Subject) -> None:
    """Prepare killed at any step: the same container can be prepared again, and shows all of its image."""
    wanted = subject.snapshot(subject.plain(*LAYERS))

    def repair(_subject: Subject, container: Container) -> None:
        container.prepare().mount()
        expect_same(container.snapshot(), wanted, "prepared again")
        container.unmount()
        container.remove()

    _at_every_step(subject, prepared=False, act=lambda container: container.prepare(), repair=repair)


@case("storage.crash.mount", deadline_s=60)
def mount(subject: Subject) -> None:
    """A start killed at any step: the container starts again with all it had, and can be removed."""

    def repair(_subject: Subject, container: Container) -> None:
        container.mount()
        with open(container.path("etc/passwd"), encoding="ascii") as stream:
            expect(stream.read().endswith("kept\n"), "what was written before the crash is gone")
        container.unmount()
        container.remove()

    _at_every_step(
        subject, prepared=True, act=lambda container: container.mount(), repair=repair, most=_MOST_STEPS // 2
    )


@case("storage.crash.remove", deadline_s=60)
def remove(subject: Subject) -> None:
    """Remove killed at any step: a second remove takes away the rest."""

    def repair(_subject: Subject, container: Container) -> None:
        container.remove()

    _at_every_step(
        subject, prepared=True, act=lambda container: container.remove(), repair=repair, most=_MOST_STEPS // 2
    )


@case("storage.crash.gc", deadline_s=60)
def gc(subject: Subject) -> None:
    """Gc killed at any step: a second gc ends the work, and a valid container has lost nothing."""
    valid = subject.mounted(subject.chain(*LAYERS))
    work(valid.root)
    wanted = valid.snapshot()
    valid.unmount()

    def collect(_container: Container) -> None:
        subject.gc(valid)

    def repair(subject: Subject, container: Container) -> None:
        container.remove_directory()
        subject.gc(valid)

    _at_every_step(subject, prepared=True, act=collect, repair=repair, most=10)
    valid.mount()
    expect_same(valid.snapshot(), wanted, "a valid container after gc was killed")


@case("storage.crash.any-moment", deadline_s=60)
def any_moment(subject: Subject) -> None:
    """A life killed at any moment, programs that the driver runs included: remove without a record takes all away."""
    chain = subject.chain(*LAYERS)

    def live(container: Container) -> None:
        container.prepare().mount()
        work(container.root)
        container.unmount()
        container.remove()

    def kill_after(container: Container, seconds: float) -> None:
        child = Child(with_own_mounts(lambda: live(container)))
        time.sleep(seconds)
        child.kill()
        child.status()

    begin = time.monotonic()
    in_child(with_own_mounts(lambda: live(subject.container(chain))))
    took = time.monotonic() - begin
    for number in range(_MOMENTS):
        container = subject.container(chain)
        container.make_directory()
        kill_after(container, took * (number + 0.5) / _MOMENTS)
        container.remove()
        subject.expect_no_trace(container, f"killed after {number + 0.5} of {_MOMENTS} parts of its life, then removed")


@case("storage.crash.while-working")
def while_working(subject: Subject) -> None:
    """A monitor killed while its container works: the container starts again, with what had been written and synced."""
    wanted = subject.snapshot(subject.plain(*LAYERS))
    for synced in (5, 50):
        container = subject.container(subject.chain(*LAYERS)).prepare()
        read_end, write_end = os.pipe()
        child = Child(with_own_mounts(partial(_write_for_ever, container, write_end)))
        os.close(write_end)
        lines = 0
        while lines < synced and os.read(read_end, 1):
            lines += 1
        child.kill()
        expect(child.status() == -signal.SIGKILL, "the process ended before it was killed")
        os.close(read_end)
        container.mount()
        for number in range(synced):
            with open(container.path(f"var/log/{number}"), encoding="ascii") as stream:
                expect(stream.read() == f"{number}\n", f"file {number} of {synced} that were synced is damaged")
        seen = {path: entry for path, entry in container.snapshot().items() if not path.startswith("var/log")}
        expect_same(seen, {path: entry for path, entry in wanted.items() if not path.startswith("var/log")}, "the rest")
        container.unmount()
        container.remove()
        subject.expect_no_trace(container, "after remove")


@case("storage.crash.server")
def server(subject: Subject) -> None:
    """A file server, if the driver has one, that is killed: errors until the next start, which has everything."""
    container = subject.mounted(subject.chain(*LAYERS))
    pid = container.server_pid
    if pid is None:
        return
    work(container.root)
    os.sync()
    wanted = container.snapshot()
    os.kill(pid, signal.SIGKILL)
    try:
        os.listdir(container.root)
    except OSError:
        pass
    container.unmount()
    container.mount()
    expect_same(container.snapshot(), wanted, "after the server was killed")


def _write_for_ever(container: Container, end: int) -> None:
    container.mount()
    number = 0
    while True:
        with open(container.path(f"var/log/{number}"), "w", encoding="ascii") as stream:
            stream.write(f"{number}\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.write(end, b".")
        number += 1


def _at_every_step(
    subject: Subject,
    *,
    prepared: bool,
    act: Callable[[Container], object],
    repair: Callable[[Subject, Container], None],
    most: int = _MOST_STEPS,
) -> None:
    """Kill a verb before each of its steps, repair, and look that nothing is left; last, that a new container works."""
    chain = subject.chain(*LAYERS)
    wanted = subject.snapshot(subject.plain(*LAYERS))

    def fresh() -> Container:
        container = subject.container(chain)
        container.make_directory()
        if prepared:
            container.prepare()
            in_child(with_own_mounts(lambda: _write_a_little(container)))
        return container

    first = fresh()
    total = count_steps(with_own_mounts(lambda: act(first)))
    in_child(with_own_mounts(lambda: repair(subject, first)))
    for step in spread(total, most):
        container = fresh()
        kill_at_step(with_own_mounts(partial(act, container)), step)
        in_child(with_own_mounts(partial(repair, subject, container)))
        subject.expect_no_trace(container, f"killed at step {step} of {total}, then repaired")
    _expect_works(subject, subject.container(chain), wanted)


def _expect_works(subject: Subject, container: Container, wanted: Mapping[str, Entry]) -> None:
    container.prepare().mount()
    expect_same(container.snapshot(), wanted, "a container made after the crashes")
    container.unmount()
    container.remove()
    subject.expect_no_trace(container, "after remove")
    subject.expect_layers_unchanged()


def _write_a_little(container: Container) -> None:
    container.mount()
    with open(container.path("etc/passwd"), "a", encoding="ascii") as stream:
        stream.write("kept\n")
    os.unlink(container.path("usr/lib/b.so"))
    container.unmount()


def _remove_without_record(_subject: Subject, container: Container) -> None:
    container.record = None
    container.remove()


def _collect(subject: Subject, container: Container) -> None:
    container.remove_directory()
    subject.gc()

"""Several at once: containers made, used and removed side by side, by processes that know nothing of each other."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Final

from plugengine.errors import PlugengineError
from plugengine.testing.cases import case, expect, expect_equal
from plugengine.testing.children import all_at_once
from plugengine.testing.storage.container import Container
from plugengine.testing.storage.guest_work import LAYERS, work
from plugengine.testing.storage.other_namespaces import with_own_mounts
from plugengine.testing.storage.snapshot import expect_same
from plugengine.testing.storage.subject import Subject

_AT_ONCE: Final = 8
_ROUNDS: Final = 2
_FILES: Final = 40


@case("storage.concurrency.lives", deadline_s=40)
def lives(subject: Subject) -> None:
    """Eight containers live at once, each from prepare to remove, and none notices the others."""
    chain = subject.chain(*LAYERS)
    wanted = subject.snapshot(subject.plain(*LAYERS))
    containers = [[subject.container(chain) for _ in range(_ROUNDS)] for _ in range(_AT_ONCE)]

    def live(mine: list[Container]) -> Callable[[], None]:
        def act() -> None:
            for container in mine:
                container.prepare().mount()
                expect_same(container.snapshot(), wanted, "a new container")
                work(container.root)
                after = container.snapshot()
                container.remount()
                expect_same(container.snapshot(), after, "after a remount")
                container.unmount()
                container.remove()

        return with_own_mounts(act)

    all_at_once([live(mine) for mine in containers])
    for mine in containers:
        for container in mine:
            subject.expect_no_trace(container, "after all were removed")
    subject.expect_layers_unchanged()


@case("storage.concurrency.new-chain")
def new_chain(subject: Subject) -> None:
    """Containers made at the same time of a chain that was never used all show it."""
    wanted = subject.snapshot(subject.plain(*LAYERS))
    for _ in range(_ROUNDS):
        chain = subject.chain(*LAYERS)
        containers = [subject.container(chain) for _ in range(4)]
        records = all_at_once([partial(_prepare, container) for container in containers])
        for container, record in zip(containers, records, strict=True):
            container.record = record
            container.mount()
            expect_same(container.snapshot(), wanted, "one of those made at once")
            with open(container.path("etc/passwd"), "w", encoding="ascii") as stream:
                stream.write(container.id)
        for container in containers:
            with open(container.path("etc/passwd"), encoding="ascii") as stream:
                expect_equal(stream.read(), container.id, "what one container wrote")


def _prepare(container: Container) -> object:
    return container.prepare().record


@case("storage.concurrency.remove-beside")
def remove_beside(subject: Subject) -> None:
    """Containers of one chain can be removed while others of it are made and used."""
    chain = subject.chain(*LAYERS)
    wanted = subject.snapshot(subject.plain(*LAYERS))
    old = [subject.container(chain).prepare() for _ in range(4)]
    new = [subject.container(chain) for _ in range(4)]

    def make(container: Container) -> Callable[[], None]:
        def act() -> None:
            container.prepare().mount()
            expect_same(container.snapshot(), wanted, "a container made while others were removed")
            container.unmount()
            container.remove()

        return with_own_mounts(act)

    all_at_once([*(one.remove for one in old), *(make(one) for one in new)])
    for container in (*old, *new):
        subject.expect_no_trace(container, "after all were removed")


@case("storage.concurrency.gc-beside")
def gc_beside(subject: Subject) -> None:
    """Gc that runs while valid containers are used takes nothing away from them."""
    chain = subject.chain(*LAYERS)
    containers = [subject.container(chain).prepare() for _ in range(4)]

    def use(container: Container) -> Callable[[], None]:
        def act() -> None:
            container.mount()
            work(container.root)
            before = container.snapshot()
            container.remount()
            expect_same(container.snapshot(), before, "a container used while gc ran")
            container.unmount()

        return with_own_mounts(act)

    def collect() -> None:
        for _ in range(4):
            subject.gc(*containers)

    all_at_once([*(use(container) for container in containers), collect, collect])


@case("storage.concurrency.remove-at-once")
def remove_at_once(subject: Subject) -> None:
    """Two processes that remove the same container both come to an end, and it is gone."""
    containers = [subject.mounted(subject.chain(*LAYERS)) for _ in range(3)]
    for container in containers:
        work(container.root)
        container.unmount()

    def remove(container: Container) -> Callable[[], bool]:
        def act() -> bool:
            try:
                container.remove()
            except PlugengineError:  # the other one was quicker in the middle of it
                return False
            return True

        return act

    for container in containers:
        done = all_at_once([remove(container), remove(container), remove(container)])
        expect(any(done), "of three that remove one container none succeeded")
        container.remove()
        subject.expect_no_trace(container, "after it was removed three times at once")


@case("storage.concurrency.writers")
def writers(subject: Subject) -> None:
    """Processes that write in one container at once lose nothing, in new files and in one of a layer."""
    container = subject.mounted(subject.chain(*LAYERS))

    def write(number: int) -> Callable[[], None]:
        def act() -> None:
            for count in range(_FILES):
                with open(container.path(f"var/log/{number}-{count}"), "w", encoding="ascii") as stream:
                    stream.write(f"{number} {count}\n")
                with open(container.path("etc/passwd"), "a", encoding="ascii") as stream:
                    stream.write(f"{number} {count}\n")
                if count % 4 == 3:
                    os.rename(container.path(f"var/log/{number}-{count}"), container.path(f"etc/{number}-{count}"))

        return act

    all_at_once([write(number) for number in range(4)])
    container.remount()
    with open(container.path("etc/passwd"), encoding="ascii") as stream:
        lines = [line for line in stream if " " in line]
    wanted = sorted(f"{number} {count}\n" for number in range(4) for count in range(_FILES))
    expect_equal(sorted(lines), wanted, "lines appended by four processes")
    names = [name for place in ("var/log", "etc") for name in os.listdir(container.path(place)) if "-" in name]
    expect_equal(len(names), 4 * _FILES, "files made by four processes")


@case("storage.concurrency.same-first-write")
def same_first_write(subject: Subject) -> None:
    """Processes that change the same file of a layer first, at the same moment, all have their change in it."""
    container = subject.mounted(subject.chain(*LAYERS))
    path = container.path("usr/lib/a.so")
    size = os.stat(path).st_size

    def write(number: int) -> Callable[[], None]:
        def act() -> None:
            fd = os.open(path, os.O_RDWR)
            os.pwrite(fd, b"%d" % number, number * 100)
            os.close(fd)

        return act

    all_at_once([write(number) for number in range(_AT_ONCE)])
    container.remount()
    with open(path, "rb") as stream:
        data = stream.read()
    expect_equal(len(data), size, "size of the file")
    expect_equal([data[n * 100 : n * 100 + 1] for n in range(_AT_ONCE)], [b"%d" % n for n in range(_AT_ONCE)], "writes")

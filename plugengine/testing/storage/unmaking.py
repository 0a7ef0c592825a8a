"""Unmaking: remove and gc take everything away, twice, half made, after a reboot, and nothing else."""

from __future__ import annotations

import os

from plugengine.errors import PlugengineError
from plugengine.testing.cases import case, expect, expect_equal
from plugengine.testing.children import Child, in_child
from plugengine.testing.storage.contract import ABOVE, BASE
from plugengine.testing.storage.other_namespaces import with_own_mounts
from plugengine.testing.storage.snapshot import expect_same
from plugengine.testing.storage.subject import Subject


@case("storage.contract.reboot")
def reboot(subject: Subject) -> None:
    """All is there after the run directory was lost, and can be removed then."""
    container = subject.mounted(subject.chain(BASE))
    with open(container.path("kept"), "w", encoding="ascii") as stream:
        stream.write("kept")
    before = container.snapshot()
    container.unmount()
    container.lose_run_directory()
    container.mount()
    expect_same(container.snapshot(), before, "after the run directory was lost")
    container.unmount()
    container.lose_run_directory()
    container.remove()
    subject.expect_no_trace(container, "after remove without a run directory")


@case("storage.contract.remove-twice")
def remove_twice(subject: Subject) -> None:
    """Remove leaves nothing behind, and can be called again."""
    container = subject.mounted(subject.chain(BASE, ABOVE))
    with open(container.path("some"), "wb") as stream:
        stream.write(bytes(10_000))
    container.unmount()
    for when in ("after remove", "after the second remove"):
        container.remove()
        subject.expect_no_trace(container, when)
    container.remove_directory()
    container.remove()
    expect(not os.path.exists(container.request.directory), "remove made the container's directory again")


@case("storage.contract.remove-without-record")
def remove_without_record(subject: Subject) -> None:
    """Remove without a record removes what a prepare made that never returned; also when it made nothing."""
    container = subject.container(subject.chain(BASE))
    container.make_directory()
    container.remove()
    subject.expect_no_trace(container, "after remove of what was never prepared")
    container.prepare().record = None
    container.remove()
    subject.expect_no_trace(container, "after remove without a record")


@case("storage.contract.remove-hostile-content")
def remove_hostile_content(subject: Subject) -> None:
    """Remove copes with what a container may have left: deep trees, odd names, read-only directories, links out."""
    # Links lead nowhere but here: a driver that follows them must not empty the machine of who tests it.
    outside = f"{subject.scratch}/outside"
    os.mkdir(outside)
    with open(f"{outside}/kept", "w", encoding="ascii"):
        pass
    container = subject.mounted(subject.chain(BASE))
    os.symlink(outside, container.path("out"))
    os.mkdir(container.path("closed"), 0o700)
    with open(container.path("closed/file"), "w", encoding="ascii"):
        pass
    os.chmod(container.path("closed"), 0)
    with open(os.fsencode(container.path("odd")) + b"\xff\n\\", "wb"):
        pass
    in_child(lambda: _nest(container.root, levels=300))
    container.unmount()
    container.remove()
    subject.expect_no_trace(container, "after remove")
    expect(os.path.exists(f"{outside}/kept"), "remove followed a symbolic link out of the container")


@case("storage.contract.remove-while-mounted")
def remove_while_mounted(subject: Subject) -> None:
    """Remove of what is mounted in another process is refused or does no harm, and then works."""
    container = subject.container(subject.chain(BASE)).prepare()
    read_end, write_end = os.pipe()
    told, tell = os.pipe()

    def hold() -> None:
        os.close(tell)
        container.mount()
        os.write(write_end, b"m")
        os.read(told, 1)
        container.unmount()

    child = Child(with_own_mounts(hold))
    os.close(write_end)
    os.close(told)
    mounted = os.read(read_end, 1)
    os.close(read_end)
    try:
        if mounted:
            container.remove()
    except PlugengineError:
        pass  # refused
    finally:
        os.close(tell)
    child.result()
    container.remove()
    subject.expect_no_trace(container, "after remove once nothing was mounted")
    subject.expect_layers_unchanged()


@case("storage.contract.gc")
def gc(subject: Subject) -> None:
    """Gc removes what no container owns, and keeps all of those that are valid."""
    chain = subject.chain(BASE, ABOVE)
    valid, strange = subject.mounted(chain), subject.mounted(chain)
    for container in (valid, strange):
        with open(container.path("own"), "w", encoding="ascii") as stream:
            stream.write(container.id)
        container.unmount()
    subject.gc(valid)
    strange.remove_directory()
    subject.gc(valid)
    subject.expect_no_trace(strange, "after gc")
    valid.mount()
    with open(valid.path("own"), encoding="ascii") as stream:
        expect_equal(stream.read(), valid.id, "what a valid container has after gc")
    valid.unmount()


@case("storage.contract.gc-of-nothing")
def gc_of_nothing(subject: Subject) -> None:
    """Gc on a host without containers does nothing and raises nothing."""
    subject.chain(BASE)
    for _ in range(2):
        subject.gc()
    subject.expect_layers_unchanged()


@case("storage.contract.gc-of-layers")
def gc_of_layers(subject: Subject) -> None:
    """Of layers that were removed from the layer store nothing stays that containers shared."""
    container = subject.mounted(subject.chain(BASE, ABOVE))
    container.unmount()
    container.remove()
    container.remove_directory()
    subject.forget_layers()
    subject.gc()
    shared = container.request.shared
    left = [
        f"{parent}/{name}" for parent, _names, files in os.walk(shared) for name in files if name in ("motd", "tool")
    ]
    expect(not left, f"made of a layer that is gone, and still there: {', '.join(left[:2])}")
    again = subject.mounted(subject.chain(BASE, ABOVE))
    expect_same(again.snapshot(), subject.snapshot(subject.plain(BASE, ABOVE)), "an image that came again")


def _nest(root: str, *, levels: int) -> None:
    os.chdir(root)
    for _ in range(levels):
        os.mkdir("deep")
        os.chdir("deep")

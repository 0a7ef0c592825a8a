"""The contract of every storage driver: what each verb does, does not do, and does again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from plugengine.errors import PlugengineError
from plugengine.kernel.mountinfo import read_mountinfo
from plugengine.model import Capability, HostPath
from plugengine.testing.cases import case, expect, expect_equal, fail
from plugengine.testing.children import OtherProcess
from plugengine.testing.storage.described import directory, file, symlink, whiteout
from plugengine.testing.storage.other_namespaces import with_own_mounts
from plugengine.testing.storage.snapshot import expect_same, snapshot
from plugengine.testing.storage.subject import Subject

BASE = (
    directory("", 0o755),
    directory("etc"),
    file("etc/motd", "welcome\n"),
    file("etc/gone", "to be hidden\n"),
    directory("bin"),
    file("bin/tool", b"\x7fELF" + bytes(range(256)), 0o755),
    symlink("bin/link", "tool"),
)
ABOVE = (directory("etc"), file("etc/motd", "of the upper layer\n"), whiteout("etc/gone"), file("new", "new\n"))


@case("storage.contract.info-and-probe")
def info_and_probe(subject: Subject) -> None:
    """Info and probe change nothing on disk and answer the same again."""
    before = snapshot(subject.scratch)
    first = subject.driver.probe(subject.host)
    expect_equal(subject.driver.probe(subject.host), first, "the second answer of probe")
    expect(not first, f"probe says that this host cannot run the driver: {'; '.join(first)}")
    expect(subject.driver.info.summary.strip(), "info: the summary is empty")
    names = [option.name for option in subject.driver.info.options]
    expect_equal(sorted(set(names)), sorted(names), "options of info, each once")
    expect_same(snapshot(subject.scratch), before, "after probe")


@case("storage.contract.prepare-twice")
def prepare_twice(subject: Subject) -> None:
    """Prepare can be called again: same record, same content."""
    layers = (BASE, ABOVE)
    container = subject.container(subject.chain(*layers)).prepare()
    first = container.record
    container.prepare()
    expect_equal(container.record, first, "the record of the second prepare")
    container.mount()
    expect_same(container.snapshot(), subject.snapshot(subject.plain(*layers)), "after two calls of prepare")


@case("storage.contract.prepare-fails-clean")
def prepare_fails_clean(subject: Subject) -> None:
    """Prepare that fails says so with an error of the engine and leaves nothing behind."""
    chain = (*subject.chain(BASE), HostPath(f"{subject.locations.layers}/{'f' * 64}"))  # the last is not there
    container = subject.container(chain)
    try:
        container.prepare()
    except PlugengineError:
        subject.expect_no_trace(container, "after prepare failed")
        return
    try:  # a driver may meet the layer only when it mounts
        container.mount()
    except PlugengineError:
        container.remove()
        subject.expect_no_trace(container, "after remove")
    else:
        fail("a chain with a layer that does not exist was prepared and mounted")


@case("storage.contract.options")
def options(subject: Subject) -> None:
    """Every option is taken with its default, and with nonsense it is taken or refused by an error of the engine."""
    chain = subject.chain(BASE)
    for option in subject.driver.info.options:
        if option.default:
            container = subject.mounted(chain, options={**subject.options, option.name: option.default})
            container.unmount()
        container = subject.container(chain, options={**subject.options, option.name: "no-such-value"})
        try:
            container.prepare().mount()
        except PlugengineError as exc:
            container.remove()
            subject.expect_no_trace(container, f"after {option.name}=no-such-value was refused ({exc})")
        finally:
            container.unmount()


@case("storage.contract.mounts-are-pure")
def mounts_are_pure(subject: Subject) -> None:
    """Mounts only says what to mount: the same every time, and nothing on disk changes."""
    container = subject.container(subject.chain(BASE)).prepare()
    record = container.record or {}
    before = snapshot(subject.host.root)
    first = subject.driver.mounts(container.request, record)
    expect_equal(subject.driver.mounts(container.request, record), first, "the second answer of mounts")
    expect_same(snapshot(subject.host.root), before, "after mounts")
    expect(first.mounts or first.server is not None, "mounts: neither mounts nor a server")
    container.mount().unmount()
    expect_equal(subject.driver.mounts(container.request, record), first, "the answer of mounts after a mount")


@case("storage.contract.mounts-of-a-dry-run")
def mounts_of_a_dry_run(subject: Subject) -> None:
    """Mounts with an empty record, of a container that was not prepared, answers and makes nothing."""
    container = subject.container(subject.chain(BASE))
    before = snapshot(subject.host.root)
    subject.driver.mounts(container.request, {})
    expect_same(snapshot(subject.host.root), before, "after mounts of a dry run")


@case("storage.contract.record-is-enough")
def record_is_enough(subject: Subject) -> None:
    """The record, as JSON, lets a process that knows nothing else mount, read, and remove the container."""
    container = subject.container(subject.chain(BASE))

    def use(record: dict[str, object]) -> str:
        container.record = record
        container.mount()
        with open(container.path("written"), encoding="ascii") as stream:
            text = stream.read()
        container.unmount()
        container.remove()
        return text

    stranger = OtherProcess(lambda record: with_own_mounts(lambda: use(record))())
    container.prepare().mount()
    with open(container.path("written"), "w", encoding="ascii") as stream:
        stream.write("by the first process")
    container.unmount()
    expect_equal(stranger.call(container.record), "by the first process", "what another process reads")
    subject.expect_no_trace(container, "after remove by another process")


@case("storage.contract.remount")
def remount(subject: Subject) -> None:
    """What was written is there after an unmount and a mount."""
    layers = (BASE, ABOVE)
    container, plain = subject.mounted(subject.chain(*layers)), subject.plain(*layers)
    for number in range(3):
        for root in (container.root, plain):
            with open(f"{root}/round-{number}", "w", encoding="ascii") as stream:
                stream.write(f"round {number}")
            with open(f"{root}/etc/motd", "a", encoding="ascii") as stream:
                stream.write(f"and {number}\n")
        os.unlink(container.path("bin/link") if number == 0 else container.path(f"round-{number - 1}"))
        os.unlink(f"{plain}/bin/link" if number == 0 else f"{plain}/round-{number - 1}")
        container.remount()
        expect_same(container.snapshot(), subject.snapshot(plain), f"after remount {number + 1}")


@case("storage.contract.containers-are-apart")
def containers_are_apart(subject: Subject) -> None:
    """Two containers on one chain do not see each other's changes."""
    layers = (BASE, ABOVE)
    chain = subject.chain(*layers)
    first, second = subject.mounted(chain), subject.mounted(chain)
    with open(first.path("etc/motd"), "w", encoding="ascii") as stream:
        stream.write("of the first\n")
    os.unlink(first.path("new"))
    with open(first.path("mine"), "w", encoding="ascii"):
        pass
    expect_same(second.snapshot(), subject.snapshot(subject.plain(*layers)), "the other container")
    second.remount()
    expect_same(second.snapshot(), subject.snapshot(subject.plain(*layers)), "the other container after a remount")
    third = subject.mounted(chain)
    expect_same(third.snapshot(), subject.snapshot(subject.plain(*layers)), "a container made later")


@case("storage.contract.layers-stay")
def layers_stay(subject: Subject) -> None:
    """Nothing a container does changes a layer."""
    chain = subject.chain(BASE, ABOVE)
    before = [snapshot(layer) for layer in chain]
    container = subject.mounted(chain)
    _change_everything(container.root)
    container.remount()
    _change_everything(container.root)
    container.unmount()
    container.remove()
    for layer, tree in zip(chain, before, strict=True):
        expect_same(snapshot(layer), tree, f"layer {chain.index(layer)}")
    subject.expect_layers_unchanged()


@case("storage.contract.read-only")
def read_only(subject: Subject) -> None:
    """A container asked for read-only shows all and refuses every change with EROFS."""
    layers = (BASE, ABOVE)
    container = subject.mounted(subject.chain(*layers), read_only=True)
    refused: dict[str, Callable[[], object]] = {
        "open for writing": lambda: os.open(container.path("etc/motd"), os.O_WRONLY),
        "create": lambda: os.open(container.path("created"), os.O_WRONLY | os.O_CREAT, 0o600),
        "mkdir": lambda: os.mkdir(container.path("made")),
        "unlink": lambda: os.unlink(container.path("new")),
        "chmod": lambda: os.chmod(container.path("new"), 0o600),
        "rename": lambda: os.rename(container.path("new"), container.path("newer")),
    }
    for what, act in refused.items():
        try:
            act()
        except OSError as exc:
            expect_equal(errno.errorcode[exc.errno or 0], "EROFS", f"{what} in a read-only container")
        else:
            fail(f"{what} in a read-only container succeeded")
    expect_same(container.snapshot(), subject.snapshot(subject.plain(*layers)), "a read-only container")


@case("storage.contract.ephemeral")
def ephemeral(subject: Subject) -> None:
    """An ephemeral container is like any other while the host runs, remounts included."""
    layers = (BASE, ABOVE)
    container, plain = subject.mounted(subject.chain(*layers), ephemeral=True), subject.plain(*layers)
    for _ in range(2):
        _change_everything(container.root)
        _change_everything(plain)
        expect_same(container.snapshot(), subject.snapshot(plain), "an ephemeral container")
        container.remount()
    container.unmount()
    container.remove()
    subject.expect_no_trace(container, "after remove")


@case("storage.contract.server-ends")
def server_ends(subject: Subject) -> None:
    """A file server, if the driver has one, serves until it is unmounted, then ends by itself without a word."""
    container = subject.mounted(subject.chain(BASE))
    pid = container.server_pid
    if pid is None:
        return
    _change_everything(container.root)
    expect(os.path.exists(f"/proc/{pid}"), "the server ended while its filesystem was in use")
    os.listdir(container.root)
    container.unmount()
    expect(not os.path.exists(f"/proc/{pid}"), "the server is there after the unmount")
    expect_equal(container.server_log, "", "what the server wrote to its standard error")
    expect_equal(container.problems, [], "what went wrong when it was unmounted")


@case("storage.contract.errors-are-the-engines")
def errors_are_the_engines(subject: Subject) -> None:
    """Usage of a container whose files are gone raises an error of the engine, or answers."""
    container = subject.container(subject.chain(BASE)).prepare()
    container.remove()
    container.remove_directory()
    try:
        container.usage()
    except PlugengineError:
        return


@case("storage.contract.diff-not-claimed", refused=Capability.NATIVE_DIFF)
def diff_not_claimed(subject: Subject) -> None:
    """A driver that does not claim native-diff has no `upper`."""
    container = subject.mounted(subject.chain(BASE))
    try:
        container.changes()
    except PlugengineError:
        return
    fail("upper answered although the driver does not claim native-diff")


def _change_everything(root: str) -> None:
    with open(f"{root}/etc/motd", "a", encoding="ascii") as stream:
        stream.write("more\n")
    with open(f"{root}/bin/tool", "r+b") as binary:
        binary.truncate(5)
    if os.path.lexists(f"{root}/bin/link"):
        os.unlink(f"{root}/bin/link")
    os.chmod(f"{root}/etc", 0o700)
    os.chown(f"{root}/bin/tool", 7, 8)
    os.setxattr(f"{root}/bin/tool", "user.changed", b"yes")
    os.utime(f"{root}/etc/motd", ns=(1, 2))
    if os.path.exists(f"{root}/new"):
        os.rename(f"{root}/new", f"{root}/newer")


@case("storage.contract.host-mounts", needs=(Capability.HOST_MOUNTS,))
def host_mounts(subject: Subject) -> None:
    """What prepare mounts stays where a container runs and stops, and is gone after remove."""
    before = _mount_points()
    container = subject.container(subject.chain(BASE, ABOVE)).prepare()
    made = _mount_points() - before
    expect(made, "claims to mount something in prepare, and mounted nothing")
    container.mount()
    container.unmount()
    expect_equal(_mount_points() - before, made, "mounts after a container has run")
    container.remove()
    expect_equal(_mount_points() - before, set(), "mounts after remove")


@case("storage.contract.no-host-mounts", refused=Capability.HOST_MOUNTS)
def no_host_mounts(subject: Subject) -> None:
    """Prepare mounts nothing for others to see, unless it claims to."""
    before = _mount_points()
    subject.container(subject.chain(BASE, ABOVE)).prepare()
    expect_equal(_mount_points() - before, set(), "mounts made by prepare")


def _mount_points() -> set[str]:
    return {entry.mount_point for entry in read_mountinfo()}

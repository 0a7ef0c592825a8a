"""Space: full filesystems, limits, what a container takes, and owners of a user namespace."""

from __future__ import annotations

import errno
import os
from typing import Final

from plugengine.errors import NoSpaceError, NotSupportedError, PlugengineError, UsageError
from plugengine.model import Capability, IdRange, UserMap
from plugengine.testing.cases import case, expect, expect_equal, fail
from plugengine.testing.children import in_child
from plugengine.testing.storage.container import Container
from plugengine.testing.storage.described import directory, file
from plugengine.testing.storage.guest_work import LAYERS, work
from plugengine.testing.storage.other_namespaces import as_guest
from plugengine.testing.storage.small_filesystem import fill, small_filesystem
from plugengine.testing.storage.snapshot import expect_same
from plugengine.testing.storage.subject import Subject

_MIB: Final = 1 << 20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_LIMIT_BYTES: Final = 16 * _MIB
_CHUNK: Final = 256 * 1024
_MAP: Final = UserMap(
    uids=(IdRange(guest=0, host=1_000_000, size=65_536),), gids=(IdRange(guest=0, host=2_000_000, size=65_536),)
)


def write_until_full(path: str, most: int) -> int:
    """Write and sync until the filesystem refuses; return how much was taken."""
    taken = 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while taken < most:
            try:
                written = os.write(fd, b"\x5a" * _CHUNK)
                os.fsync(fd)
            except OSError as exc:
                expect(exc.errno in _FULL, f"a write to what is full: {os.strerror(exc.errno or 0).lower()}")
                return taken
            taken += written
    finally:
        os.close(fd)
    return taken


@case("storage.space.full", deadline_s=40)
def full(subject: Subject) -> None:
    """In a container on a full filesystem writes are refused with ENOSPC, nothing that was there is lost."""
    with small_filesystem(subject) as small:
        container = small.mounted(small.chain(*LAYERS))
        work(container.root)
        os.sync()
        before = container.snapshot()
        taken = write_until_full(container.path("big"), 1 << 30)
        expect(taken < 1 << 30, "a small filesystem took everything")
        os.unlink(container.path("big"))
        expect_same(container.snapshot(), before, "after the filesystem was full")
        container.remount()
        expect_same(container.snapshot(), before, "after a remount")
        with open(container.path("again"), "wb") as stream:
            stream.write(bytes(_MIB))
        container.unmount()
        container.remove()
        small.expect_no_trace(container, "after remove")


@case("storage.space.full-while-changing", deadline_s=40)
def full_while_changing(subject: Subject) -> None:
    """A file of a layer that cannot be changed for lack of space is as it was, and can be deleted."""
    content = os.urandom(4096) * 1024
    with small_filesystem(subject) as small:
        container = small.mounted(small.chain((directory("", 0o755), file("large", content), file("small", "s\n"))))
        fill(f"{small.scratch}/filler")
        try:
            with open(container.path("large"), "r+b") as stream:
                stream.write(b"changed")
        except OSError as exc:
            expect(exc.errno in _FULL, f"a change without space: {os.strerror(exc.errno or 0).lower()}")
            with open(container.path("large"), "rb") as stream:
                expect(stream.read() == content, "a file that could not be changed is damaged")
        os.unlink(f"{small.scratch}/filler")
        os.unlink(container.path("large"))
        expect_equal(os.listdir(container.root), ["small"], "what is left")


@case("storage.space.full-while-preparing", deadline_s=40)
def full_while_preparing(subject: Subject) -> None:
    """Prepare on a full filesystem works or is a NoSpaceError that leaves nothing; with space it works again."""
    with small_filesystem(subject) as small:
        chain = small.chain(*LAYERS)
        wanted = small.snapshot(small.plain(*LAYERS))
        container = small.container(chain)
        container.make_directory()
        fill(f"{small.scratch}/filler")
        try:
            container.prepare()
        except NoSpaceError:
            small.expect_no_trace(container, "after prepare failed for lack of space")
        except PlugengineError as exc:
            fail(f"prepare on a full filesystem: {type(exc).__name__}, not NoSpaceError: {exc.message}")
        os.unlink(f"{small.scratch}/filler")
        container.prepare().mount()
        expect_same(container.snapshot(), wanted, "prepared once there was space")


@case("storage.space.remove-when-full", deadline_s=40)
def remove_when_full(subject: Subject) -> None:
    """A container can be removed while its filesystem is full."""
    with small_filesystem(subject) as small:
        container = small.mounted(small.chain(*LAYERS))
        work(container.root)
        write_until_full(container.path("big"), 1 << 30)
        container.unmount()
        fill(f"{small.scratch}/filler")
        container.remove()
        small.expect_no_trace(container, "after remove")


@case("storage.space.usage")
def usage(subject: Subject) -> None:
    """Usage grows by about what is written, and shrinks by what is deleted."""
    container = subject.mounted(subject.chain(*LAYERS))
    before = _usage(container)
    with open(container.path("big"), "wb") as stream:
        stream.write(os.urandom(_MIB) * 4)
    for number in range(100):
        with open(container.path(f"var/{number}"), "w", encoding="utf-8"):
            pass
    after = _usage(container)
    _expect_about(after[0] - before[0], 4 * _MIB, "growth of size_bytes after 4 MiB were written")
    expect(100 <= after[1] - before[1] <= 110, f"inodes grew by {after[1] - before[1]} after 101 files were made")
    os.unlink(container.path("big"))
    _expect_about(after[0] - _usage(container)[0], 4 * _MIB, "shrinking of size_bytes after 4 MiB were deleted")
    container.unmount()
    expect(container.usage().size_bytes >= 0, "usage after the unmount")


@case("storage.space.usage-without-layers", needs=(Capability.NATIVE_DIFF,))
def usage_without_layers(subject: Subject) -> None:
    """Usage does not count the layers, only what was changed about them."""
    layers = ((directory("", 0o755), file("large", os.urandom(4096) * 2048), file("other", os.urandom(4096) * 512)),)
    container = subject.mounted(subject.chain(*layers))
    found = _usage(container)[0]
    expect(found < _MIB, f"usage of a container that wrote nothing is {found} bytes")
    os.unlink(container.path("large"))
    found = _usage(container)[0]
    expect(found < _MIB, f"usage of a container that only deleted is {found} bytes")
    with open(container.path("other"), "ab") as stream:
        stream.write(b"x")
    _expect_about(_usage(container)[0], 2 * _MIB, "usage after a file of 2 MiB was changed", least=0)


@case("storage.space.limit", needs=(Capability.QUOTA,), deadline_s=40)
def limit(subject: Subject) -> None:
    """The option size limits what a container's changes take; what is deleted is free again; usage fits."""
    container = subject.mounted(subject.chain(*LAYERS), options={**subject.options, "size": "16m"})
    for _ in range(2):
        taken = write_until_full(container.path("big"), 3 * _LIMIT_BYTES)
        expect(taken < 3 * _LIMIT_BYTES, f"size=16m: {taken} bytes were taken")
        _expect_about(taken, _LIMIT_BYTES, "what a limit of 16 MiB lets through")
        used = _usage(container)[0]
        expect(used <= _LIMIT_BYTES * 1.1, f"usage with a limit of 16 MiB is {used} bytes")
        os.unlink(container.path("big"))
        _sync(container)
    write(container.path("fits"), 8 * _MIB)
    expect_equal(os.stat(container.path("fits")).st_size, 8 * _MIB, "a file that fits")


@case("storage.space.limit-of-each", needs=(Capability.QUOTA,), deadline_s=40)
def limit_of_each(subject: Subject) -> None:
    """Each container has its own limit, which holds after a remount; without the option there is none."""
    chain = subject.chain(*LAYERS)
    limited = subject.mounted(chain, options={**subject.options, "size": "16m"})
    free = subject.mounted(chain)
    write(free.path("big"), 2 * _LIMIT_BYTES)
    write(limited.path("half"), 8 * _MIB)
    limited.remount()
    taken = write_until_full(limited.path("rest"), 3 * _LIMIT_BYTES)
    _expect_about(taken, 8 * _MIB, "what is left of 16 MiB after 8 and a remount")
    other = subject.mounted(chain, options={**subject.options, "size": "16m"})
    write(other.path("fits"), 12 * _MIB)


@case("storage.space.limit-of-changes", needs=(Capability.QUOTA,), deadline_s=40)
def limit_of_changes(subject: Subject) -> None:
    """A limit below the size of the image lets the container start, and changes of image files count."""
    layers = ((directory("", 0o755), *(file(f"f{number}", os.urandom(4096) * 1024) for number in range(6))),)
    container = subject.mounted(subject.chain(*layers), options={**subject.options, "size": "16m"})
    changed = 0
    for number in range(6):
        try:
            with open(container.path(f"f{number}"), "r+b", buffering=0) as stream:
                stream.write(b"\xa5" * 4 * _MIB)
                os.fsync(stream.fileno())
        except OSError as exc:
            expect(exc.errno in _FULL, f"a change beyond the limit: {os.strerror(exc.errno or 0).lower()}")
            break
        changed += 1
    expect(2 <= changed < 6, f"with a limit of 16 MiB {changed} files of 4 MiB were rewritten")


@case("storage.space.bad-limit", needs=(Capability.QUOTA,))
def bad_limit(subject: Subject) -> None:
    """A limit that is no size is a UsageError, and nothing is left behind."""
    for text in ("much", "-1", "12q", "1e999"):
        container = subject.container(subject.chain(*LAYERS), options={**subject.options, "size": text})
        try:
            container.prepare()
        except UsageError:
            subject.expect_no_trace(container, f"after size={text} was refused")
        else:
            fail(f"size={text} was taken")


@case("storage.space.limit-not-claimed", refused=Capability.QUOTA)
def limit_not_claimed(subject: Subject) -> None:
    """A driver that does not claim quota offers no option size, so that the engine refuses it."""
    names = [option.name for option in subject.driver.info.options]
    if "size" not in names:
        return
    container = subject.container(subject.chain(*LAYERS), options={**subject.options, "size": "16m"})
    try:
        container.prepare()
    except (UsageError, NotSupportedError):
        return
    fail("size is offered and taken, but quota is not claimed")


@case("storage.space.mapped-owners", needs=(Capability.USER_MAP,))
def mapped_owners(subject: Subject) -> None:
    """With a user map every file shows the owner outside that the map gives, also what is made and changed."""
    layers = (
        (directory("", 0o755), directory("d", uid=5, gid=6), file("f", "f\n", uid=1000, gid=1001), file("r", "r\n")),
    )
    container = subject.mounted(subject.chain(*layers), user_map=_MAP)
    _expect_owners(container, {"": (0, 0), "d": (5, 6), "f": (1000, 1001), "r": (0, 0)}, "at first")

    def change() -> None:
        with open(container.path("f"), "a", encoding="utf-8") as stream:
            stream.write("changed\n")
        os.mkdir(container.path("d/new"))
        os.chown(container.path("d/new"), 7, 8)
        os.chown(container.path("r"), 42, 43)

    in_child(as_guest(_MAP, change))
    wanted = {"f": (1000, 1001), "d/new": (7, 8), "r": (42, 43), "d": (5, 6)}
    _expect_owners(container, wanted, "after changes")
    container.remount()
    _expect_owners(container, wanted, "after a remount")
    container.unmount()
    subject.expect_layers_unchanged()


@case("storage.space.mapped-beside-plain", needs=(Capability.USER_MAP,))
def mapped_beside_plain(subject: Subject) -> None:
    """Containers with and without a user map share a chain, and each shows its own owners."""
    chain = subject.chain(*LAYERS)
    mapped, plain = subject.mounted(chain, user_map=_MAP), subject.mounted(chain)
    expect_same(plain.snapshot(), subject.snapshot(subject.plain(*LAYERS)), "the one without a map")
    _expect_owners(mapped, {"etc/passwd": (0, 0), "var/log": (0, 4)}, "the one with a map")


@case("storage.space.mapped-layer", needs=(Capability.USER_MAP, Capability.NATIVE_DIFF), claim="user-map")
def mapped_layer(subject: Subject) -> None:
    """The layer of a container with a user map has the owners inside, and what was left alone is no change."""
    chain = subject.chain(*LAYERS)
    container = subject.mounted(chain, user_map=_MAP)

    def change() -> None:
        with open(container.path("made"), "w", encoding="utf-8"):
            pass
        os.chown(container.path("made"), 7, 8)
        os.chown(container.path("etc/passwd"), 1, 2)

    in_child(as_guest(_MAP, change))
    container.unmount()
    changed = {str(change.path) for change in container.changes()}
    expect_equal(changed - {"/"}, {"/made", "/etc", "/etc/passwd"}, "changes of a container with a user map")
    layer = subject.layer_of_tar(container.diff()[1], below=chain)
    plain = subject.mounted((*chain, layer))
    for path, owner in {"made": (7, 8), "etc/passwd": (1, 2), "etc": (0, 0)}.items():
        found = os.stat(plain.path(path))
        expect_equal((found.st_uid, found.st_gid), owner, f"owner of /{path} in the layer")


def write(path: str, size: int) -> None:
    """Write and sync a file of a size that must fit."""
    with open(path, "wb") as stream:
        for _ in range(size // _CHUNK):
            stream.write(b"\x5a" * _CHUNK)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(container: Container) -> None:
    fd = os.open(container.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.sync()


def _usage(container: Container) -> tuple[int, int]:
    os.sync()  # what is only promised to a file is not on disk yet
    found = container.usage()
    return found.size_bytes, found.inodes


def _expect_about(seen: int, wanted: int, what: str, *, least: float = 0.7) -> None:
    expect(wanted * least <= seen <= wanted * 1.3 + 128 * 1024, f"{what}: {seen} bytes, not about {wanted}")


def _expect_owners(container: Container, owners: dict[str, tuple[int, int]], when: str) -> None:
    for path, (uid, gid) in owners.items():
        found = os.stat(container.path(path) if path else container.root)
        outside = (uid + _MAP.uids[0].host, gid + _MAP.gids[0].host)
        expect_equal((found.st_uid, found.st_gid), outside, f"owner of /{path} {when}, as seen from outside")

"""Operations a union must do as overlayfs does them, each a function of a mounted tree; see `operated_layers`."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import stat
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from plugengine.kernel.attributes import statx
from plugengine.kernel.files import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    fallocate,
    link_fd,
    renameat2,
)
from tests.drivers.fuse_union.attempts import as_user, attempt, entry, opened
from tests.drivers.fuse_union.operated_layers import CAPABILITY, fill
from tests.drivers.fuse_union.pictures import picture, shown
from tests.drivers.fuse_union.world import World

Operation = Callable[[Path], Any]
# include/uapi/linux/falloc.h
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
USER = 1234
OPERATIONS: dict[str, Operation] = {}


def operation(function: Operation) -> Operation:
    """Add a function to the operations."""
    OPERATIONS[function.__name__] = function
    return function


def outcomes(
    world: World, mount: Callable[[], object], operations: Mapping[str, Operation] = OPERATIONS
) -> dict[str, tuple[Any, Any]]:
    """Return the result of each operation and the tree it leaves after a remount, each in a directory of its own."""
    for name in operations:
        for layer in world.layers:
            (layer / name).mkdir()
        fill([layer / name for layer in world.layers])
    mount()
    results = {name: act(world.root / name) for name, act in operations.items()}
    before = picture(str(world.root))
    world.remount()
    assert picture(str(world.root)) == before
    return {name: (result, picture(str(world.root / name))) for name, result in results.items()}


@operation
def looking(root: Path) -> Any:
    return [(path, entry(root / path)) for path in ("d", "d/file", "d/sub/deep", "e", "gone", "gone/hidden", "fifo")], [
        sorted(os.listdir(root / path)) for path in (".", "d", "d/sub", "gone", "names")
    ]


@operation
def append_and_truncate(root: Path) -> Any:
    os.truncate(root / "large", 100_001)
    opened(root / "d" / "file", os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"end"))
    opened(root / "d" / "other", os.O_WRONLY | os.O_TRUNC, lambda fd: os.write(fd, b"new"))
    return [(entry(root / name), (root / name).read_bytes()) for name in ("large", "d/file", "d/other")]


@operation
def setuid_is_cleared_by_an_ordinary_writer(root: Path) -> Any:
    path = root / "setuid"
    return as_user(USER, lambda: opened(path, os.O_WRONLY, lambda fd: os.write(fd, b"x"))), entry(path)


@operation
def setuid_is_cleared_by_truncating(root: Path) -> Any:
    path = root / "setuid"
    return as_user(USER, lambda: os.truncate(path, 3)), entry(path)


@operation
def setuid_stays_when_root_writes(root: Path) -> Any:
    opened(root / "setuid", os.O_WRONLY, lambda fd: os.write(fd, b"x"))
    return entry(root / "setuid")


@operation
def setuid_is_cleared_by_chown(root: Path) -> Any:
    os.chown(root / "setuid", 3, 3)
    return entry(root / "setuid")


@operation
def capabilities_are_cleared_by_every_writer(root: Path) -> Any:
    def have() -> Any:
        return attempt(lambda: os.getxattr(root / "capable", "security.capability"))

    before = have()
    as_user(USER, lambda: opened(root / "capable", os.O_WRONLY, lambda fd: os.write(fd, b"x")))
    after = have()
    os.setxattr(root / "capable", "security.capability", CAPABILITY)
    again = have()
    os.chown(root / "capable", 5, -1)
    return before, after, again, have()


@operation
def a_file_without_a_name_gets_one(root: Path) -> Any:
    def give(fd: int) -> Any:
        os.write(fd, b"nameless")
        before = os.fstat(fd).st_nlink
        to = os.open(root / "d", os.O_RDONLY)
        try:
            link_fd(fd, to, "named")
        finally:
            os.close(to)
        return before, os.fstat(fd).st_nlink

    return (
        opened(root / "d", os.O_TMPFILE | os.O_RDWR, give, 0o640),
        (root / "d/named").read_bytes(),
        entry(root / "d/named"),
    )


@operation
def a_file_without_a_name_may_be_kept_from_having_one(root: Path) -> Any:
    def give(fd: int) -> Any:
        return attempt(lambda: os.link(f"/proc/self/fd/{fd}", root / "named", follow_symlinks=True))

    return opened(root / "d", os.O_TMPFILE | os.O_EXCL | os.O_RDWR, give), entry(root / "named")


@operation
def names_of_different_layers_are_exchanged(root: Path) -> Any:
    results = []
    for first, second in (("exchanged", "large"), ("d", "exchanged"), ("gone", "d/sub"), ("gone", "nothing")):
        results.append(attempt(renameat2, -100, f"{root}/{first}", -100, f"{root}/{second}", RENAME_EXCHANGE))
    return results, (root / "d").is_file(), sorted(os.listdir(root))


@operation
def a_name_in_use_is_not_replaced(root: Path) -> Any:
    def move(old: str, new: str) -> Any:
        return attempt(lambda: renameat2(-100, f"{root}/{old}", -100, f"{root}/{new}", RENAME_NOREPLACE))

    return move("large", "exchanged"), move("large", "fresh"), entry(root / "large"), entry(root / "fresh")


@operation
def a_file_that_is_replaced_stays_for_who_has_it_open(root: Path) -> Any:
    def use(fd: int) -> Any:
        (root / "exchanged").rename(root / "d" / "file")
        os.pwrite(fd, b"still", 0)
        return os.pread(fd, 30, 0), os.fstat(fd).st_nlink

    return opened(root / "d" / "file", os.O_RDWR, use), (root / "d" / "file").read_bytes()


@operation
def a_file_that_is_removed_stays_for_who_has_it_open(root: Path) -> Any:
    def use(fd: int) -> Any:
        (root / "large").unlink()
        os.ftruncate(fd, 10)
        os.fchmod(fd, 0o600)
        os.setxattr(fd, "trusted.x", b"y")
        return os.pread(fd, 99, 0), shown(os.fstat(fd)), os.getxattr(fd, "trusted.x")

    return opened(root / "large", os.O_RDWR, use), entry(root / "large")


@operation
def a_name_copied_up_leaves_the_hard_links_of_its_layer(root: Path) -> Any:
    opened(root / "e2" / "one", os.O_WRONLY, lambda fd: os.write(fd, b"L"))
    os.link(root / "e2" / "one", root / "e2" / "three")
    same = (root / "e2/one").stat().st_ino == (root / "e2/three").stat().st_ino
    apart = (root / "e2/one").stat().st_ino != (root / "e2/two").stat().st_ino
    return (
        same,
        apart,
        [((root / "e2" / name).read_text(), (root / "e2" / name).stat().st_nlink) for name in ("one", "three")],
        ((root / "e2" / "two").read_text()),
    )


@operation
def holes_are_found(root: Path) -> Any:
    def use(fd: int) -> Any:
        os.ftruncate(fd, 3 << 20)
        os.pwrite(fd, b"middle", 1 << 20)
        found = [attempt(os.lseek, fd, at, how) for at in (0, 1 << 20, 2 << 20) for how in (3, 4)]
        return found, attempt(lambda: os.lseek(fd, 4 << 20, os.SEEK_DATA))

    return opened(root / "holes", os.O_RDWR | os.O_CREAT, use)


@operation
def space_is_allotted_and_punched(root: Path) -> Any:
    def use(fd: int) -> Any:
        results = [
            attempt(fallocate, fd, mode, 65_536, 65_536)
            for mode in (0, KEEP_SIZE, PUNCH_HOLE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE)
        ]
        return results, os.lseek(fd, 0, os.SEEK_HOLE), os.fstat(fd).st_size, os.pread(fd, 4, 65_534)

    return opened(root / "large", os.O_RDWR, use), entry(root / "large")


@operation
def ranges_are_copied_between_layers(root: Path) -> Any:
    def use(fd: int) -> Any:
        def read(source: int) -> Any:
            done = [os.copy_file_range(source, fd, 5000, 100, 7), os.copy_file_range(source, fd, 10, 1 << 30, 7)]
            return *done, attempt(lambda: os.copy_file_range(fd, fd, 100, 0, 50))

        return opened(root / "large", os.O_RDONLY, read)

    return opened(root / "d" / "other", os.O_RDWR, use), (root / "d" / "other").read_bytes()


@operation
def shared_maps_write(root: Path) -> Any:
    def use(fd: int) -> Any:
        with mmap.mmap(fd, 0) as memory:
            memory[4096:4100] = b"MAPS"
            memory.flush()
            return os.pread(fd, 8, 4094)

    return opened(root / "large", os.O_RDWR, use), (root / "large").read_bytes()[4094:4102]


@operation
def times_are_kept_to_the_nanosecond(root: Path) -> Any:
    results = []
    for name in ("large", "d", "link", "fifo"):
        os.utime(root / name, ns=(987_654_321_123_456_789, 876_543_210_987_654_321), follow_symlinks=False)
        status = os.lstat(root / name)
        results.append((status.st_atime_ns, status.st_mtime_ns))
    os.utime(root / "large", ns=(0, 1))
    return (
        results,
        os.lstat(root / "large").st_mtime_ns,
        attempt(lambda: os.utime(root / "large", ns=(-1_500_000_000, -1))),
    )


@operation
def a_time_of_birth_is_known(root: Path) -> Any:
    (root / "born").touch()
    return statx(-100, str(root / "born"))[0] is not None, (statx(-100, str(root / "large"))[0] or 0) > 0


@operation
def reading_a_layer_changes_no_access_time(root: Path) -> Any:
    before = [os.lstat(root / name).st_atime_ns for name in ("d/file", "d", "link")]
    (root / "d" / "file").read_bytes()
    os.listdir(root / "d")
    os.readlink(root / "link")
    return before[0] == os.lstat(root / "d" / "file").st_atime_ns


@operation
def a_sticky_directory_keeps_files_of_others(root: Path) -> Any:
    path = root / "sticky"
    results = [as_user(USER, lambda: opened(path / "mine", os.O_CREAT | os.O_WRONLY, lambda _: None))]
    results += [as_user(USER + 1, partial(os.unlink, path / name)) for name in ("mine", "of-root")]
    results += [as_user(USER + 1, lambda: os.rename(path / "mine", path / "taken"))]
    return results, as_user(USER, lambda: os.unlink(path / "mine")), sorted(os.listdir(path))


@operation
def default_lists_come_before_the_umask(root: Path) -> Any:
    old = os.umask(0o077)
    try:
        (root / "acl" / "directory").mkdir()
        (root / "acl" / "file").touch()
        (root / "d" / "private").touch()
        os.mkfifo(root / "acl" / "fifo")
    finally:
        os.umask(old)
    names = ("acl/directory", "acl/file", "acl/fifo", "d/private")
    return [
        (entry(root / name), attempt(os.getxattr, root / name, "system.posix_acl_access")) for name in names
    ], attempt(lambda: os.getxattr(root / "acl" / "directory", "system.posix_acl_default"))


@operation
def attributes_have_limits(root: Path) -> Any:
    path = root / "d" / "file"
    results = [attempt(os.setxattr, path, "trusted.sized", b"v" * size) for size in (0, 1, 3000, 65537)]
    results += [attempt(os.setxattr, path, "trusted." + "n" * length, b"") for length in (200, 300)]
    results += [attempt(lambda: os.setxattr(path, "trusted.sized", b"", os.XATTR_CREATE))]
    results += [attempt(lambda: os.setxattr(path, "trusted.none", b"", os.XATTR_REPLACE))]
    results += [
        attempt(lambda: os.setxattr(path, "nonsense.x", b"")),
        attempt(lambda: os.getxattr(path, "trusted.none")),
    ]
    results += [attempt(lambda: os.setxattr(root / "link", "user.x", b"", follow_symlinks=False))]
    return (
        results,
        sorted(name for name in os.listxattr(path) if name.startswith("trusted.")),
        len(os.getxattr(path, "trusted.sized")),
    )


@operation
def locks_hold_between_processes(root: Path) -> Any:
    path = root / "d" / "file"

    def take(lock: Callable[[int, int], Any]) -> Any:
        return as_user(0, lambda: opened(path, os.O_RDWR, lambda fd: lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)))

    def use(fd: int) -> Any:
        free = [take(lock) for lock in (fcntl.flock, fcntl.lockf)]
        fcntl.flock(fd, fcntl.LOCK_EX)
        fcntl.lockf(fd, fcntl.LOCK_EX)
        held = [take(lock) for lock in (fcntl.flock, fcntl.lockf)]
        beyond = as_user(
            0, lambda: opened(path, os.O_RDWR, lambda o: fcntl.lockf(o, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 1 << 20))
        )
        fcntl.lockf(fd, fcntl.LOCK_UN)
        return free, held, beyond, [take(lock) for lock in (fcntl.flock, fcntl.lockf)]

    return opened(path, os.O_RDWR, use)


@operation
def names_of_any_bytes_and_length(root: Path) -> Any:
    results = [(root / "names" / ("n" * 255)).read_text(), (root / "names" / "\udcff\udcfe").read_text()]
    results += [attempt((root / ("x" * length)).touch) for length in (255, 256)]
    (root / "names" / ("n" * 255)).unlink()
    (root / "names" / "\udcff\udcfe").rename(root / "names" / "\udc80 \n\udcff")
    results += [
        attempt(lambda: (root / "a").symlink_to("t" * 4095)),
        attempt(lambda: (root / "b").symlink_to("t" * 4096)),
    ]
    return results, sorted(os.listdir(root / "names")), len(os.readlink(root / "a"))


@operation
def directories_move_and_go(root: Path) -> Any:
    results = [attempt(lambda: os.rmdir(root / "d")), attempt(lambda: os.rename(root / "d", root / "d" / "sub" / "x"))]
    (root / "gone").rmdir()
    (root / "gone").mkdir()
    results += [sorted(os.listdir(root / "gone")), attempt(lambda: os.rename(root / "large", root / "gone"))]
    results += [
        attempt(lambda: os.rename(root / "gone", root / "large")),
        attempt(lambda: os.rename(root / "names", root / "gone")),
    ]
    return results, sorted(os.listdir(root)), sorted(os.listdir(root / "gone"))


@operation
def special_files_work(root: Path) -> Any:
    results = [attempt(lambda: os.mknod(root / "whiteout", stat.S_IFCHR | 0o600, 0))]
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    opened(root / "null", os.O_WRONLY, lambda fd: os.write(fd, b"x"))
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(root)  # the address has at most 108 bytes
        try:
            server.bind("socket")
        finally:
            os.chdir(here)
    return results, [entry(root / name) for name in ("whiteout", "null", "socket", "fifo")]


@operation
def permissions_are_those_of_the_caller(root: Path) -> Any:
    (root / "d" / "file").chmod(0o600)
    (root / "d").chmod(0o711)
    calls = [
        lambda: os.listdir(root / "d"),
        lambda: (root / "d" / "file").read_bytes(),
        lambda: (root / "d" / "new").touch(),
        lambda: os.chown(root / "large", USER, USER),
        lambda: os.chmod(root / "large", 0o777),
        lambda: os.utime(root / "large", ns=(1, 1)),
        lambda: os.setxattr(root / "large", "trusted.x", b""),
        lambda: os.access(root / "d" / "file", os.R_OK),
    ]
    return [as_user(USER, call) for call in calls]

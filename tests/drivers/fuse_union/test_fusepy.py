"""The union behind libfuse: what it carries is as on a plain directory and as overlayfs does it."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import plugengine_fuse_union as driver
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plugengine_fuse_union import libfuse

from plugengine.containers import file_server
from plugengine.errors import DriverError, NotSupportedError
from plugengine.kernel.capabilities import capability_set
from plugengine.kernel.credentials import capget, capset
from plugengine.kernel.files import RENAME_NOREPLACE, renameat2
from plugengine.kernel.mountinfo import read_mountinfo
from plugengine.model import HostPath, Server
from tests.conftest import Pe, need
from tests.drivers.fuse_union.conftest import MakeWorld, as_user
from tests.drivers.fuse_union.pictures import picture
from tests.drivers.fuse_union.steps import STEPS, Actor, Step
from tests.drivers.fuse_union.test_differential import mounted_pair
from tests.drivers.fuse_union.world import World

EXAMPLES = int(os.environ.get("PE_EXAMPLES", "15"))  # more are tried by hand
FUSEPY = {"transport": "fusepy"}
OLD_NS = 1_234_567_890_123_456_789


def unavailable() -> str | None:
    try:
        libfuse.load()
    except NotSupportedError as exc:
        return str(exc)
    return None


@pytest.fixture(autouse=True)
def _libfuse() -> None:
    need(unavailable())


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """One layer with a few files, mounted through libfuse."""
    world = make_world(options=FUSEPY)
    layer = world.layers[0]
    (layer / "dir" / "sub").mkdir(parents=True)
    (layer / "dir" / "a").write_text("a of the layer\n")
    (layer / "file").write_text("file of the layer\n")
    (layer / "link").symlink_to("file")
    (layer / "\udcff").write_text("odd")
    return world.mount()


def refuses(act: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as caught:
        act()
    return caught.value.errno


# --- the same on a plain directory

MATRIX = [
    Step("create", ("new", 0o640)),
    Step("create", ("new", 0o640)),
    Step("write", ("new", b"content", 5000)),
    Step("append", ("new", b" and more")),
    Step("read", ("new",)),
    Step("truncate", ("new", 3)),
    Step("rewrite", ("file", b"other")),
    Step("read", ("file",)),
    Step("read", ("nowhere/file",)),
    Step("read", ("file/below",)),
    Step("mkdir", ("made", 0o1777)),
    Step("mkdir", ("dir", 0o755)),
    Step("rename", ("dir", "made/dir", 0)),
    Step("rename", ("file", "made", 0)),
    Step("listdir", ("made/dir",)),
    Step("rmdir", ("made",)),
    Step("unlink", ("made",)),
    Step("link", ("file", "made/linked")),
    Step("append", ("made/linked", b" by the other name")),
    Step("append", ("file", b" and by the first")),
    Step("read", ("made/linked",)),
    Step("symlink", ("file", "soft")),
    Step("mkfifo", ("fifo",)),
    Step("chmod", ("new", 0o4755)),
    Step("chown", ("new", 1, 65534)),
    Step("utime", ("new", 1_073_741_821)),
    Step("utime", ("soft", 999_999_999_999_999_999)),
    Step("setxattr", ("made/dir/a", "user.x", b"value")),
    Step("setxattr", ("new", "user.empty", b"")),
    Step("removexattr", ("new", "user.none")),
    Step("hold", (0, "made/dir/a")),
    Step("unlink", ("made/dir/a",)),
    Step("write_held", (0, b"still")),
    Step("read_held", (0,)),
    Step("stat_held", (0,)),
    Step("listdir", ("made/dir",)),
    Step("hold", (1, "file")),
    Step("write", ("over", b"over", 0)),
    Step("rename", ("over", "file", 0)),
    Step("read_held", (1,)),
    Step("stat_held", (1,)),
    Step("read", ("file",)),
    Step("read", ("made/linked",)),
    Step("rmdir", ("made/dir/sub",)),
    Step("rmdir", ("made/dir",)),
    Step("drop", (0,)),
    Step("drop", (1,)),
]


def test_each_operation_has_the_result_it_has_on_a_plain_directory(world: World) -> None:
    plain = world.base / "plain"
    shutil.copytree(world.layers[0], plain, symlinks=True)
    actors = [Actor(str(world.root)), Actor(str(plain))]
    for step in MATRIX:
        ours, theirs = (actor.do(step) for actor in actors)
        assert ours == theirs, step
    times = _without_times(picture(str(plain)))
    assert _without_times(picture(str(world.root))) == times
    world.remount()
    assert _without_times(picture(str(world.root))) == times


def _without_times(seen: dict[str, Any]) -> dict[str, Any]:
    # The copy of the tree has times of its own; those set by hand are compared in the tests below.
    return {path: (*entry[:6], *entry[7:]) for path, entry in seen.items()}


# --- the same as overlayfs

CARRIED = STEPS.filter(lambda step: not (step.call == "rename" and step.arguments[2]))


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(CARRIED, min_size=5, max_size=40))
def test_results_and_trees_are_those_of_overlayfs(steps: list[Step]) -> None:
    with mounted_pair({"options": FUSEPY}, {}) as pair:
        for step in steps:
            pair.do(step)
        pair.assert_same("before it is unmounted")
        pair.assert_same_under_overlayfs()


# --- what is peculiar


def test_the_mount_has_its_name_and_allows_setuid_and_devices(world: World) -> None:
    (found,) = [entry for entry in read_mountinfo() if entry.mount_point == str(world.root)]
    assert (found.fstype, found.source) == ("fuse.fuse_union", "fuse_union")
    os.mknod(world.root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert (world.root / "null").read_bytes() == b""


def test_numbers_times_and_names_are_kept_to_the_last_bit(world: World) -> None:
    number = (world.root / "dir" / "a").stat().st_ino
    assert {entry.name: entry.inode() for entry in os.scandir(world.root / "dir")}["a"] == number
    os.utime(world.root / "dir" / "a", ns=(OLD_NS, OLD_NS + 1))
    os.rename(world.root / "\udcff", world.root / "\udcfe")
    os.symlink("\udcfd", world.root / "odd")
    world.remount()
    status = (world.root / "dir" / "a").stat()
    assert (status.st_ino, status.st_atime_ns, status.st_mtime_ns) == (number, OLD_NS, OLD_NS + 1)
    assert (world.root / "\udcfe").read_text() == "odd"
    assert os.readlink(world.root / "odd") == "\udcfd"


def test_one_time_is_left_alone_and_the_other_set_to_now(world: World) -> None:
    os.utime(world.root / "file", ns=(OLD_NS, OLD_NS))
    subprocess.run(["touch", "-m", str(world.root / "file")], check=True)
    status = (world.root / "file").stat()
    assert status.st_atime_ns == OLD_NS
    assert abs(time.time() - status.st_mtime) < 60


def test_a_file_belongs_to_who_made_it_and_permissions_are_heeded(world: World) -> None:
    world.base.parent.chmod(0o755)
    (world.root / "open").mkdir()
    (world.root / "open").chmod(0o777)
    (world.root / "file").chmod(0o600)

    def act() -> None:
        os.umask(0o027)
        (world.root / "open" / "mine").write_text("x")
        assert refuses((world.root / "file").read_text) == errno.EACCES
        assert refuses(lambda: (world.root / "new").touch()) == errno.EACCES

    as_user(1234, act)
    status = (world.root / "open" / "mine").stat()
    assert (status.st_uid, status.st_gid, oct(status.st_mode)) == (1234, 1234, "0o100640")


@pytest.mark.parametrize("way", [os.O_WRONLY, os.O_WRONLY | os.O_TRUNC], ids=["write", "truncate"])
def test_writing_by_an_ordinary_user_clears_setuid(world: World, way: int) -> None:
    world.base.parent.chmod(0o755)
    (world.root / "file").chmod(0o6777)

    def act() -> None:
        fd = os.open(world.root / "file", way)
        if not way & os.O_TRUNC:
            os.write(fd, b"x")

    as_user(1234, act)
    assert oct((world.root / "file").stat().st_mode) == "0o100777"


def test_a_reader_of_the_layers_file_sees_the_copy(world: World) -> None:
    with open(world.root / "file") as reader:
        (world.root / "file").write_text("copied up\n")
        assert reader.read() == "copied up\n"
    assert (world.layers[0] / "file").read_text() == "file of the layer\n"


def test_a_mapped_file_is_written_back_where_it_is_also_appended_to(world: World) -> None:
    (world.root / "mapped").write_bytes(b"." * 8192)
    fd = os.open(world.root / "mapped", os.O_RDWR | os.O_APPEND)
    with mmap.mmap(fd, 8192) as memory:
        memory[4096:4102] = b"mapped"
        os.write(fd, b"appended")
        memory.flush()
    os.close(fd)
    assert (world.upper / "mapped").read_bytes() == b"." * 4096 + b"mapped" + b"." * 4090 + b"appended"


def test_a_removed_file_lives_until_it_is_closed_and_shows_nowhere(world: World) -> None:
    with open(world.root / "dir" / "a", "r+") as stream:
        os.unlink(world.root / "dir" / "a")
        assert os.listdir(world.root / "dir") == ["sub"]
        assert not [name for name in os.listdir(world.upper / "dir") if name.startswith(".fuse_hidden")]
        assert (os.fstat(stream.fileno()).st_nlink, stream.read()) == (0, "a of the layer\n")
        os.ftruncate(stream.fileno(), 1)
        os.fchmod(stream.fileno(), 0o600)
        assert (os.fstat(stream.fileno()).st_size, oct(os.fstat(stream.fileno()).st_mode)) == (1, "0o100600")
        os.rmdir(world.root / "dir" / "sub")
        os.rmdir(world.root / "dir")
        stream.seek(0)
        assert stream.read() == "a"


def test_open_files_and_walks_leave_no_descriptors_behind(world: World) -> None:
    def count() -> int:
        return len(os.listdir(f"/proc/{world.pid}/fd"))

    def use() -> None:
        for number in range(150):
            path = world.root / f"n{number}"
            with open(path, "w") as stream:
                stream.write("x")
                if number % 2:
                    os.unlink(path)
            os.path.exists(path)
            os.makedirs(world.root / "t" / str(number) / "sub")
        shutil.rmtree(world.root / "t")

    before = count()
    use()
    assert count() <= before + 2


def test_what_libfuse_cannot_carry_is_refused_not_done_wrong(world: World) -> None:
    root = world.root
    assert refuses(lambda: renameat2(-100, str(root / "file"), -100, str(root / "n"), RENAME_NOREPLACE)) == errno.EINVAL
    assert refuses(lambda: os.open(root, os.O_TMPFILE | os.O_RDWR)) == errno.EOPNOTSUPP
    acl = b"\x02\0\0\0" + b"\1\0\7\0\xff\xff\xff\xff" + b"\4\0\5\0\xff\xff\xff\xff" + b"\x20\0\5\0\xff\xff\xff\xff"
    assert refuses(lambda: os.setxattr(root / "file", "system.posix_acl_access", acl)) == errno.EOPNOTSUPP


@pytest.mark.parametrize("name", ["size", "trace"])
def test_options_that_nothing_would_heed_are_refused(name: str) -> None:
    with pytest.raises(NotSupportedError, match=f"{name}: not with transport fusepy"):
        libfuse.require_carried({name: "some"})


def test_a_read_only_mount_refuses_writes(make_world: MakeWorld) -> None:
    world = make_world(read_only=True, options=FUSEPY)
    (world.layers[0] / "file").write_text("x")
    world.mount()
    assert (world.root / "file").read_text() == "x"
    assert refuses((world.root / "file").unlink) == errno.EROFS


def test_a_termination_signal_unmounts_even_in_use_and_an_interrupt_does_not(world: World) -> None:
    assert world.server is not None
    os.kill(world.pid, signal.SIGINT)
    fd = os.open(world.root / "file", os.O_RDONLY)
    os.kill(world.pid, signal.SIGTERM)
    os.waitid(os.P_PIDFD, world.server.pidfd, os.WEXITED | os.WNOWAIT)
    assert refuses(lambda: os.fsync(fd)) in {errno.ENOTCONN, errno.ECONNABORTED}
    assert refuses(lambda: os.close(fd)) in {errno.ENOTCONN, errno.ECONNABORTED}
    assert world.server.reap() == "exited with 0"
    world.server = None
    assert not [entry for entry in read_mountinfo() if entry.mount_point == str(world.root)]


def test_a_place_that_cannot_be_mounted_on_is_told(make_world: MakeWorld) -> None:
    world = make_world(options=FUSEPY)
    world.root.rmdir()
    with pytest.raises(DriverError, match=f"did not mount {world.root}"):
        world.mount()
    assert world.complaints != ""
    world.log.unlink()


def serve_without_privilege(config: dict[str, Any], ready: Callable[[], None]) -> int:
    """Serve as who may not mount; fusermount, which libfuse runs then, may."""
    from plugengine_fuse_union.server import serve

    effective, permitted, inheritable = capget()
    missing = capability_set(["CAP_SYS_ADMIN"])
    capset(effective & ~missing, permitted & ~missing, inheritable & ~missing)
    return serve(config, ready)


def test_where_mounting_is_refused_libfuse_is_tried_by_itself(make_world: MakeWorld) -> None:
    need(None if shutil.which("fusermount") else "needs fusermount")
    world = make_world()
    (world.layers[0] / "file").write_text("x")
    record = driver.pe_storage_prepare(world.request)
    server = driver.pe_storage_mounts(world.request, record).server
    assert server is not None
    entry = f"{__name__}:{serve_without_privilege.__name__}"
    world.server = file_server.start(Server(entry=entry, config=server.config), log=HostPath(str(world.log)))
    world.server.wait_ready()
    assert (world.root / "file").read_text() == "x"
    (world.root / "new").write_text("y")
    assert (world.upper / "new").read_text() == "y"


def test_a_host_without_libfuse_gets_a_reason_and_a_hint() -> None:
    script = (
        "import os; os.environ['FUSE_LIBRARY_PATH'] = '/nowhere/libfuse.so.2'\n"
        "from plugengine_fuse_union.libfuse import load\n"
        "from plugengine.errors import NotSupportedError\n"
        "try:\n    load()\n"
        "except NotSupportedError as exc:\n    print(exc, exc.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("transport fusepy: /nowhere/libfuse.so.2: cannot open")
    assert "libfuse2" in done.stdout


def test_loading_leaves_no_variable_behind() -> None:
    libfuse.load()
    assert "FUSE_LIBRARY_PATH" not in os.environ


def test_a_container_runs_on_it(pe: Pe) -> None:
    name = f"pe-fusepy-{os.getpid()}"
    script = "grep ' / / ' /proc/self/mountinfo; echo x >/new; mv /new /etc/moved; cat /etc/moved; rm /etc/passwd"
    pe("run", "--name", name, "--storage", "fuse_union", "--storage-opt", "transport=fusepy", "--net", "none",
       "host:base", "sh", "-c", script, check=True)  # fmt: skip
    try:
        assert pe("logs", name, check=True).stdout.endswith("x\n")
        assert "A /etc/moved" in pe("diff", name, check=True).stdout
    finally:
        pe("rm", "-f", name)

"""What a server keeps and what it writes to its log have bounds, whatever is done inside."""

from __future__ import annotations

import errno
import os
import resource
import select
import stat
from pathlib import Path

import pytest
from plugengine_fuse_union import create, remove
from plugengine_fuse_union.complaints import Complaints
from plugengine_fuse_union.create import Caller
from plugengine_fuse_union.listing import listing
from plugengine_fuse_union.nodes import DirNode
from plugengine_fuse_union.union import Union

from plugengine.kernel.mount import umount2
from tests.drivers.fuse_union.conftest import MakeWorld
from tests.drivers.fuse_union.test_copy_up import OPTIONS

DIRECTORIES, NAMES, BOUND = 300, 50, 4096


def test_listings_of_new_directories_are_counted_as_they_grow_and_go_with_them(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    union = Union([os.fsencode(tmp_path / "lower")], os.fsencode(tmp_path / "upper"), os.fsencode(tmp_path / "work"))
    caller = Caller(union, 0, 0)
    made = [create.mkdir(union, union.root, b"d%d" % number, 0o755, caller)[0] for number in range(DIRECTORIES)]
    directories = [node for node in made if isinstance(node, DirNode)]
    for number in range(NAMES):
        for node in directories:
            create.mknod(union, node, b"f%d" % number, stat.S_IFREG | 0o644, 0, caller)
        assert union.listings.entries <= BOUND
    for node in directories:
        assert len(listing(union, node).items) == NAMES
        assert union.listings.entries == sum(len(each.listing.items) for each in directories if each.listing)
    for number, node in enumerate(directories):
        for entry in list(listing(union, node).items):
            remove.unlink(union, node, entry)
        remove.rmdir(union, union.root, b"d%d" % number)
    assert union.listings.entries == 0


def test_a_line_is_written_a_few_times_and_then_no_more(capfd: pytest.CaptureFixture[str]) -> None:
    complaints = Complaints()
    for number in range(1000):
        for error in (errno.EMFILE, errno.EIO):
            complaints.add("OPEN", f"/{number}", OSError(error, os.strerror(error)))
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 10
    assert "EMFILE" in lines[0] or "Too many open files" in lines[0]
    assert [line.endswith("; no more lines of this kind") for line in lines] == [False] * 8 + [True] * 2


def test_a_name_in_a_line_ends_no_line_and_says_nothing_to_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    Complaints().add("OPEN", "/" + "x" * 5000 + "/a\nb\x1b[2J", OSError(errno.EIO, "\x1b"))
    written = capfd.readouterr().err
    assert written.count("\n") == 1
    assert written.strip().isprintable()
    assert len(written) < 500


@pytest.mark.parametrize("options", OPTIONS)
def test_data_is_looked_for_nowhere_before_the_start_or_after_the_end(
    make_world: MakeWorld, options: dict[str, str]
) -> None:
    world = make_world(options=options).mount()
    path = world.root / "file"
    path.write_bytes(b"data")
    with open(path, "rb") as stream:
        for offset in (-1, -(2**63), 4, 2**62):
            for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                with pytest.raises(OSError) as caught:
                    os.lseek(stream.fileno(), offset, whence)
                assert caught.value.errno == errno.ENXIO
    assert world.complaints == ""


def test_a_server_whose_files_are_closed_as_it_is_unmounted_ends_without_a_word(make_world: MakeWorld) -> None:
    world = make_world().mount()
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        for _ in range(1000):
            os.open(world.root, os.O_TMPFILE | os.O_RDWR)
        os._exit(0)
    os.waitpid(pid, 0)
    umount2(str(world.root), 0)
    server, world.server = world.server, None
    assert server is not None
    assert select.select([server.pidfd], [], [], 30)[0]
    assert server.reap() == "exited with 0"
    assert world.complaints == ""

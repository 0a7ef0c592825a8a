"""Owner, mode, times, xattrs and flags change on the object a descriptor was opened for, never on its namesake."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugengine.kernel import attributes, credentials, files, mount
from tests.system.kernel.conftest import InChild
from tests.system.kernel.filters import answer_with


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file, and a symlink "link" to it beside it."""
    path = tmp_path / "victim"
    path.write_text("x")
    path.chmod(0o600)
    (tmp_path / "link").symlink_to("victim")
    return path


@pytest.fixture
def directory(victim: Path) -> Iterator[int]:
    fd = os.open(victim.parent, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def handle(victim: Path) -> Iterator[int]:
    """An O_PATH descriptor of the file."""
    fd = os.open(victim, os.O_PATH)
    yield fd
    os.close(fd)


@pytest.fixture
def link_handle(victim: Path) -> Iterator[int]:
    """An O_PATH descriptor of the symlink itself."""
    fd = os.open(victim.parent / "link", os.O_PATH | os.O_NOFOLLOW)
    yield fd
    os.close(fd)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("refusal", [None, errno.ENOSYS, errno.EPERM])
def test_the_mode_is_set_by_path_descriptor_on_every_kernel(
    victim: Path, handle: int, directory: int, in_child: InChild, refusal: int | None
) -> None:
    def run() -> list[int]:
        if refusal:
            answer_with("fchmodat2", refusal)
        attributes.fchmodat(handle, b"", 0o4751)
        first = mode_of(victim)
        attributes.fchmodat(directory, "victim", 0o640)
        second = mode_of(victim)
        attributes.fchmodat(directory, "link", 0o604, flags=0)
        return [first, second, mode_of(victim)]

    assert in_child(run) == [0o4751, 0o640, 0o604]


@pytest.mark.parametrize("refusal", [None, errno.ENOSYS])
def test_a_symlink_has_no_mode_and_its_target_keeps_its_own(
    victim: Path, directory: int, link_handle: int, in_child: InChild, refusal: int | None
) -> None:
    def run() -> list[int | None]:
        if refusal:
            answer_with("fchmodat2", refusal)
        seen: list[int | None] = []
        for dirfd, name in ((directory, "link"), (link_handle, "")):
            try:
                attributes.fchmodat(dirfd, name, 0o777)
            except OSError as exc:
                seen.append(exc.errno)
        return [*seen, mode_of(victim)]

    assert in_child(run) == [errno.EOPNOTSUPP, errno.EOPNOTSUPP, 0o600]


def test_a_real_refusal_of_chmod_stays_one(handle: int, in_child: InChild) -> None:
    def run() -> int | None:
        credentials.setresuid(1000, 1000, 1000)  # which drops the capabilities too
        try:
            attributes.fchmodat(handle, "", 0o777)
        except OSError as exc:
            return exc.errno
        return None

    assert in_child(run) == errno.EPERM


def test_the_owner_of_a_symlink_changes_and_its_targets_does_not(
    victim: Path, directory: int, link_handle: int
) -> None:
    attributes.fchownat(directory, "link", 1001, -1)
    attributes.fchownat(link_handle, "", -1, 1002)
    link = (victim.parent / "link").lstat()
    assert (link.st_uid, link.st_gid) == (1001, 1002)
    assert (victim.stat().st_uid, victim.stat().st_gid) == (0, 0)


def test_the_largest_owner_is_set_as_given(victim: Path, handle: int) -> None:
    attributes.fchownat(handle, "", 2**32 - 2, 2**31)
    assert (victim.stat().st_uid, victim.stat().st_gid) == (2**32 - 2, 2**31)


@pytest.mark.parametrize("owner", [2**32 - 1, 2**32, -2])
def test_an_owner_that_c_would_wrap_is_refused(handle: int, owner: int) -> None:
    with pytest.raises(OSError, match=f"id {owner}") as caught:
        attributes.fchownat(handle, "", owner, 0)
    assert caught.value.errno == errno.EINVAL


def test_times_before_the_epoch_and_to_the_nanosecond_are_set(victim: Path, handle: int) -> None:
    attributes.utimensat(handle, "", -1_000_000_001, 1_600_000_000_123_456_789)
    assert (victim.stat().st_atime_ns, victim.stat().st_mtime_ns) == (-1_000_000_001, 1_600_000_000_123_456_789)


def test_a_time_not_given_is_kept_and_a_symlink_has_its_own(victim: Path, directory: int) -> None:
    before = victim.stat().st_mtime_ns
    attributes.utimensat(directory, "link", None, 5_000_000_000)
    attributes.utimensat(directory, "victim", 7_000_000_000, None)
    assert (victim.parent / "link").lstat().st_mtime_ns == 5_000_000_000
    assert (victim.stat().st_atime_ns, victim.stat().st_mtime_ns) == (7_000_000_000, before)


def test_the_time_of_birth_is_told(victim: Path, handle: int) -> None:
    birth, _, _ = attributes.statx(handle)
    assert birth is not None
    assert abs(birth - time.time_ns()) < 60 * 10**9
    assert birth <= victim.stat().st_ctime_ns


def test_the_mount_a_file_is_on_is_told(tmp_path: Path, in_mount_namespace: InChild) -> None:
    def run() -> list[bool]:
        before = attributes.is_mount_root(files.AT_FDCWD, str(tmp_path))
        mount.mount("none", str(tmp_path), "tmpfs")
        with open("/proc/self/mountinfo") as table:
            ids = [int(line.split()[0]) for line in table if line.split()[4] == str(tmp_path)]
        _, mount_id, bits = attributes.statx(files.AT_FDCWD, str(tmp_path))
        return [
            before,
            attributes.is_mount_root(files.AT_FDCWD, str(tmp_path)),
            [mount_id] == ids,
            bool((bits or 0) & attributes.STATX_ATTR_MOUNT_ROOT),
        ]

    assert in_mount_namespace(run) == [False, True, True, True]


def test_statx_of_a_missing_file_names_it() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        attributes.statx(files.AT_FDCWD, "/no/such")
    assert caught.value.filename == "/no/such"


def test_xattrs_are_set_read_listed_and_removed_by_path_descriptor(handle: int) -> None:
    attributes.setxattr(handle, "user.a", b"\0value")
    attributes.setxattr(handle, b"trusted.overlay.opaque", b"y")
    assert attributes.getxattr(handle, "user.a") == b"\0value"
    assert {"user.a", "trusted.overlay.opaque"} <= set(attributes.listxattr(handle))
    attributes.removexattr(handle, "user.a")
    with pytest.raises(OSError, match="No data") as caught:
        attributes.getxattr(handle, "user.a")
    assert caught.value.errno == errno.ENODATA


def test_xattrs_of_a_symlink_are_not_those_of_its_target(directory: int, handle: int, link_handle: int) -> None:
    attributes.setxattr(directory, "trusted.x", b"1", "link")
    assert attributes.getxattr(link_handle, "trusted.x") == b"1"
    assert attributes.listxattr(directory, "link") == ["trusted.x"]
    assert "trusted.x" not in attributes.listxattr(handle)
    attributes.removexattr(directory, "trusted.x", "link")
    assert attributes.listxattr(directory, "link") == []


def test_xattr_flags_are_honoured(handle: int) -> None:
    with pytest.raises(OSError, match="No data"):
        attributes.setxattr(handle, "user.a", b"1", flags=attributes.XATTR_REPLACE)
    attributes.setxattr(handle, "user.a", b"1", flags=attributes.XATTR_CREATE)
    with pytest.raises(FileExistsError):
        attributes.setxattr(handle, "user.a", b"1", flags=attributes.XATTR_CREATE)


@pytest.mark.parametrize("name", ["a/b", "..", ".", "/etc/passwd"])
def test_an_xattr_name_that_leads_out_of_the_directory_is_refused(directory: int, name: str) -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        attributes.getxattr(directory, "user.a", name)
    assert caught.value.filename == name


def test_inode_flags_are_set_and_hold(victim: Path) -> None:
    fd = os.open(victim, os.O_RDONLY)
    try:
        before = attributes.get_inode_flags(fd)
        attributes.set_inode_flags(fd, before | attributes.FS_IMMUTABLE_FL)
        try:
            assert attributes.get_inode_flags(fd) == before | attributes.FS_IMMUTABLE_FL
            with pytest.raises(PermissionError):
                victim.open("w")
        finally:
            attributes.set_inode_flags(fd, before)
        assert attributes.get_inode_flags(fd) == before
    finally:
        os.close(fd)

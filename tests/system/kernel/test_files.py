"""Paths stay inside their root whatever symlinks say, and files are made, moved and linked by descriptor."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugengine.kernel import credentials, files
from plugengine.kernel.process import SIGKILL
from tests.conftest import need_tool
from tests.system.kernel.conftest import InChild
from tests.system.kernel.filters import answer_with


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.mkdir()
    return path


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    path = tmp_path / "root"
    path.mkdir()
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    yield fd, path
    os.close(fd)


def path_of(fd: int) -> Path:
    """Name what a descriptor is open for, and close it."""
    try:
        return Path(os.readlink(f"/proc/self/fd/{fd}"))
    finally:
        os.close(fd)


@pytest.mark.parametrize("path", ["/file", "file", "../../file", "link", "absolute", "up/../file", "/up/file"])
def test_every_way_to_a_file_stays_inside_the_root(root: tuple[int, Path], path: str) -> None:
    fd, directory = root
    (directory / "file").write_text("inside")
    (directory / "link").symlink_to("file")
    (directory / "absolute").symlink_to("/file")
    (directory / "up").symlink_to("../../..")
    assert path_of(files.open_in_root(fd, path, os.O_RDONLY)) == directory / "file"


def test_a_file_opened_in_a_root_is_closed_on_exec(root: tuple[int, Path]) -> None:
    fd = files.open_in_root(root[0], ".", os.O_PATH)
    inheritable = os.get_inheritable(fd)
    os.close(fd)
    assert not inheritable


def test_a_magic_link_is_refused() -> None:
    slash = os.open("/", os.O_PATH)
    with pytest.raises(OSError, match="symbolic link") as caught:
        files.open_in_root(slash, "proc/self/cwd", os.O_PATH)
    os.close(slash)
    assert caught.value.errno == errno.ELOOP


def test_openat2_refuses_a_mode_without_creation() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        files.openat2(files.AT_FDCWD, "/", os.O_PATH, 0o600)


def test_directories_are_made_with_their_parents(root: tuple[int, Path]) -> None:
    fd, directory = root
    assert path_of(files.mkdir_in_root(fd, "/a/b//./c/", 0o750)) == directory / "a/b/c"
    assert stat.S_IMODE((directory / "a/b").stat().st_mode) == 0o750


def test_parents_may_have_another_mode(root: tuple[int, Path]) -> None:
    fd, directory = root
    os.close(files.mkdir_in_root(fd, "a/b/c", 0o1700, parents_mode=0o711))
    modes = [stat.S_IMODE((directory / path).stat().st_mode) for path in ("a", "a/b", "a/b/c")]
    assert modes == [0o711, 0o711, 0o1700]


def test_making_a_directory_that_exists_keeps_it(root: tuple[int, Path]) -> None:
    fd, directory = root
    (directory / "a").mkdir(0o711)
    (directory / "a/file").touch()
    assert path_of(files.mkdir_in_root(fd, "a", 0o755)) == directory / "a"
    assert stat.S_IMODE((directory / "a").stat().st_mode) == 0o711
    assert (directory / "a/file").exists()


def test_the_root_itself_counts_as_made(root: tuple[int, Path]) -> None:
    fd, directory = root
    assert path_of(files.mkdir_in_root(fd, "/")) == directory
    assert path_of(files.mkdir_in_root(fd, "")) == directory


@pytest.mark.parametrize("target", ["/run", "../../run", "run", "/../run/.", "other/../run"])
def test_a_dangling_symlink_has_its_target_made_inside_the_root(
    root: tuple[int, Path], outside: Path, target: str
) -> None:
    fd, directory = root
    (directory / "var").symlink_to(target)
    assert path_of(files.mkdir_in_root(fd, "var/secrets")) == directory / "run/secrets"
    assert not list(outside.parent.glob("run"))


def test_a_symlink_to_the_outside_makes_nothing_there(root: tuple[int, Path], outside: Path) -> None:
    fd, directory = root
    (directory / "evil").symlink_to(outside)
    made = path_of(files.mkdir_in_root(fd, "evil/x"))
    assert made == directory / str(outside).lstrip("/") / "x"
    assert list(outside.iterdir()) == []


def test_a_file_in_the_way_of_a_directory_is_an_error(root: tuple[int, Path]) -> None:
    fd, directory = root
    (directory / "file").touch()
    with pytest.raises(NotADirectoryError):
        files.mkdir_in_root(fd, "file/x")
    (directory / "a").symlink_to("missing/../file/x")
    with pytest.raises(NotADirectoryError):
        files.mkdir_in_root(fd, "a/y")


def test_symlinks_without_end_are_an_error(root: tuple[int, Path]) -> None:
    fd, directory = root
    (directory / "loop").symlink_to("new/../loop")
    with pytest.raises(OSError, match="symbolic links") as caught:
        files.mkdir_in_root(fd, "loop/x")
    assert caught.value.errno == errno.ELOOP


def test_swapping_a_directory_for_a_symlink_meanwhile_never_leads_outside(
    root: tuple[int, Path], outside: Path
) -> None:
    fd, directory = root
    (directory / "a").mkdir()
    (directory / "trap").symlink_to(outside)
    attacker = os.fork()
    if attacker == 0:
        try:
            credentials.set_pdeathsig(SIGKILL)
            while True:
                files.renameat2(fd, "a", fd, "trap", files.RENAME_EXCHANGE)
        finally:
            os._exit(1)
    made = 0
    errors = set()
    deadline = time.monotonic() + 0.5
    try:
        while time.monotonic() < deadline:
            try:
                os.close(files.mkdir_in_root(fd, f"a/{made}/x"))
                os.close(files.create_file_in_root(fd, f"a/{made}/y"))
            except OSError as exc:
                errors.add(exc.errno)
            made += 1
    finally:
        os.kill(attacker, SIGKILL)
        os.waitpid(attacker, 0)
    assert errors <= {errno.EAGAIN, errno.ENOENT, errno.ENOTDIR}
    assert made > len(errors)
    assert list(outside.iterdir()) == []


def test_a_file_is_made_empty_with_its_parents(root: tuple[int, Path]) -> None:
    fd, directory = root
    assert path_of(files.create_file_in_root(fd, "etc/app/conf", 0o600)) == directory / "etc/app/conf"
    made = (directory / "etc/app/conf").stat()
    assert (stat.S_ISREG(made.st_mode), stat.S_IMODE(made.st_mode), made.st_size) == (True, 0o600, 0)


def test_a_file_that_exists_keeps_its_content(root: tuple[int, Path]) -> None:
    fd, directory = root
    (directory / "hosts").write_text("kept")
    assert path_of(files.create_file_in_root(fd, "/hosts")) == directory / "hosts"
    assert (directory / "hosts").read_text() == "kept"


def test_a_dangling_symlink_has_its_target_file_made_inside(root: tuple[int, Path], outside: Path) -> None:
    fd, directory = root
    (directory / "etc").mkdir()
    (directory / "etc/resolv.conf").symlink_to("../../../run/stub/resolv.conf")
    made = path_of(files.create_file_in_root(fd, "/etc/resolv.conf"))
    assert made == directory / "run/stub/resolv.conf"
    assert made.is_file()


def test_a_directory_is_not_a_file(root: tuple[int, Path]) -> None:
    fd, directory = root
    (directory / "d").mkdir()
    (directory / "later").symlink_to("new/..")
    for path in ("d", "/", "later"):
        with pytest.raises(IsADirectoryError):
            files.create_file_in_root(fd, path)


def test_a_fifo_is_opened_without_waiting_for_its_other_end(root: tuple[int, Path]) -> None:
    fd, directory = root
    os.mkfifo(directory / "fifo")
    assert path_of(files.create_file_in_root(fd, "fifo")) == directory / "fifo"


def test_rename_can_refuse_swap_and_leave_a_whiteout(root: tuple[int, Path]) -> None:
    fd, directory = root
    (directory / "a").write_text("a")
    (directory / "b").write_text("b")
    with pytest.raises(FileExistsError):
        files.renameat2(fd, "a", fd, "b", files.RENAME_NOREPLACE)
    files.renameat2(fd, "a", fd, "b", files.RENAME_EXCHANGE)
    assert (directory / "a").read_text() == "b"
    files.renameat2(fd, "a", fd, "c", files.RENAME_WHITEOUT)
    left = (directory / "a").lstat()
    assert (stat.S_ISCHR(left.st_mode), left.st_rdev) == (True, 0)


def test_a_file_without_a_name_is_given_one(root: tuple[int, Path]) -> None:
    fd, directory = root
    nameless = os.open(directory, os.O_TMPFILE | os.O_WRONLY, 0o644)
    os.write(nameless, b"content")
    files.link_fd(nameless, fd, "named")
    os.close(nameless)
    assert (directory / "named").read_text() == "content"


def test_a_file_is_given_a_name_without_any_capability(root: tuple[int, Path], in_child: InChild) -> None:
    fd, directory = root
    directory.chmod(0o777)

    def link() -> None:
        nameless = os.open(directory, os.O_TMPFILE | os.O_WRONLY, 0o644)
        credentials.capset(0, 0, 0)
        files.link_fd(nameless, fd, "named")

    in_child(link)
    assert (directory / "named").exists()


def test_a_link_onto_an_existing_name_names_it(root: tuple[int, Path]) -> None:
    fd, directory = root
    (directory / "a").touch()
    with pytest.raises(FileExistsError) as caught:
        files.linkat(fd, "a", fd, "a")
    assert caught.value.filename == "a"


def close_and_list(flags: int) -> list[bool]:
    """Close all but the standard descriptors and the report pipe, and tell which of two are still open."""
    low, high = os.open("/", os.O_PATH), os.dup2(0, 900)
    os.set_inheritable(low, True)
    files.close_range(low, flags=flags)

    def is_open(fd: int) -> bool:
        try:
            return os.get_inheritable(fd) or not flags
        except OSError:
            return False

    result = [is_open(low), is_open(high)]
    os.close(0)
    return result


@pytest.mark.parametrize("refusal", [None, errno.ENOSYS, errno.EPERM])
@pytest.mark.parametrize("flags", [0, files.CLOSE_RANGE_CLOEXEC])
def test_descriptors_are_closed_or_marked_even_where_close_range_is_hidden(
    in_child: InChild, refusal: int | None, flags: int
) -> None:
    def run() -> list[bool]:
        if refusal:
            answer_with("close_range", refusal)
        return close_and_list(flags)

    assert in_child(run) == [False, False]


def test_close_range_says_when_it_cannot_unshare(in_child: InChild) -> None:
    def run() -> int | None:
        answer_with("close_range", errno.ENOSYS)
        try:
            files.close_range(900, flags=files.CLOSE_RANGE_UNSHARE)
        except OSError as exc:
            return exc.errno
        return None

    assert in_child(run) == errno.ENOSYS


@pytest.mark.parametrize(
    ("path", "magic"),
    [
        ("/proc/self/status", files.PROC_SUPER_MAGIC),
        ("/sys", files.SYSFS_MAGIC),
        ("/dev/pts", files.DEVPTS_SUPER_MAGIC),
        ("/proc/self/ns/net", files.NSFS_MAGIC),
    ],
)
def test_the_type_of_a_filesystem_is_read_from_a_path_descriptor(path: str, magic: int) -> None:
    fd = os.open(path, os.O_PATH)
    try:
        assert files.fstatfs_type(fd) == magic
    finally:
        os.close(fd)


def test_a_closed_descriptor_has_no_filesystem() -> None:
    with pytest.raises(OSError, match="descriptor 999"):
        files.fstatfs_type(999)


def test_cloning_data_is_refused_where_the_filesystem_cannot(tmp_path: Path) -> None:
    with open("/dev/shm", "rb", opener=lambda path, _: os.open(path, os.O_TMPFILE | os.O_RDWR)) as source:
        target = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
        try:
            with pytest.raises(OSError, match="not supported"):
                files.ficlone(target, source.fileno())
        finally:
            os.close(target)


def test_cloned_data_is_equal_and_then_independent(tmp_path: Path, in_mount_namespace: InChild) -> None:
    import subprocess

    from plugengine.kernel import loop, mount

    make = need_tool("mkfs.btrfs")
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 128 << 20)
    subprocess.run([make, "-q", image], check=True, capture_output=True)
    point = tmp_path / "mnt"
    point.mkdir()

    def run() -> list[str]:
        backing = os.open(image, os.O_RDWR)
        device, device_fd = loop.loop_attach(backing)
        mount.mount(device, str(point), "btrfs")
        os.close(device_fd)
        (point / "a").write_text("x" * 100_000)
        with open(point / "a", "rb") as source, open(point / "b", "wb") as target:
            files.ficlone(target.fileno(), source.fileno())
        first = (point / "b").read_text()
        (point / "b").write_text("changed")
        return [str(first == (point / "a").read_text()), (point / "a").read_text()[:3]]

    assert in_mount_namespace(run) == ["True", "xxx"]

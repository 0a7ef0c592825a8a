"""pe-fuse-union mounts, says so by its exit code, and ends with its mount."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugengine.kernel.mount import MNT_DETACH, mount, umount2
from plugengine.kernel.mountinfo import read_mountinfo
from tests.conftest import need, need_tool
from tests.waiting import PATIENCE_S, eventually

PROGRAM = os.path.join(os.path.dirname(sys.executable), "pe-fuse-union")
NAME = "pe-fuse-union"
INCORRECT_USE = 1
MOUNT_FAILED = 32


class Place:
    """A layer, an upper and a work directory, and a mount point with a name nobody else has."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.layer, self.upper, self.work, self.target = (base / name for name in ("l", "u", "w", "m"))
        for path in (self.layer, self.upper, self.work, self.target):
            path.mkdir()
        self.called = str(self.target)  # by the command line
        (self.layer / "file").write_text("of the layer\n")
        self.options = f"lowerdir={self.layer},upperdir={self.upper},workdir={self.work}"

    def mount(self, *words: str, options: str | None = None, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run the program; it has a deadline, and so has whoever waits for the end of its output."""
        argv = [PROGRAM, *words, str(self.target), "-o", self.options if options is None else options]
        return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False, **kwargs)

    def mounted(self) -> list[tuple[str, str]]:
        """Return type and source of what is mounted on the target."""
        return [(each.fstype, each.source) for each in read_mountinfo() if each.mount_point == str(self.target)]

    def servers(self) -> list[int]:
        """Return the processes that were started with a name of the target; one that has ended shows no words."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if os.fsencode(self.called) in words and any(word.endswith(NAME.encode()) for word in words):
                found.append(int(name))
        return found


@pytest.fixture
def place() -> Iterator[Place]:
    need(None if os.access(PROGRAM, os.X_OK) else f"needs {PROGRAM}, which installing the package makes")
    found = Place(Path(tempfile.mkdtemp(prefix="pe-mp-")))
    yield found
    while found.mounted():
        umount2(str(found.target), MNT_DETACH)
    eventually(lambda: not found.servers())
    shutil.rmtree(found.base)


def test_it_returns_when_it_has_mounted_and_leaves_the_callers_streams(place: Place) -> None:
    done = place.mount()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert place.mounted() == [("fuse.pe-fuse-union", NAME)]
    (place.target / "file").write_text("changed\n")
    assert (place.layer / "file").read_text() == "of the layer\n"
    assert (place.upper / "file").read_text() == "changed\n"
    (server,) = place.servers()
    assert {os.readlink(f"/proc/{server}/fd/{number}") for number in range(3)} == {"/dev/null"}
    assert os.getsid(server) == server


def test_it_ends_when_it_is_unmounted(place: Place) -> None:
    place.mount()
    umount2(str(place.target))
    eventually(lambda: not place.servers())


def test_no_descriptor_of_the_caller_stays_open(place: Place) -> None:
    read_end, write_end = os.pipe()
    assert place.mount(pass_fds=[write_end]).returncode == 0
    os.close(write_end)
    os.set_blocking(read_end, False)
    assert os.read(read_end, 1) == b""  # the end, not BlockingIOError
    os.close(read_end)


def test_the_directory_of_the_caller_is_not_held_and_paths_are_relative_to_it(place: Place) -> None:
    done = subprocess.run(
        [PROGRAM, "m", "-o", "lowerdir=l,upperdir=u,workdir=w"], cwd=place.base, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0
    assert (place.target / "file").exists()
    place.called = "m"
    (server,) = place.servers()
    assert os.readlink(f"/proc/{server}/cwd") != str(place.base)
    umount2(str(place.target))


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        ("", INCORRECT_USE, "lowerdir"),
        ("lowerdir={base}/nothing", MOUNT_FAILED, "/nothing"),
        ("lowerdir={base}/l/file", MOUNT_FAILED, "/l/file"),
        ("lowerdir={base}/l,upperdir={base}/nothing,workdir={base}/w", MOUNT_FAILED, "/nothing"),
        ("lowerdir={base}/l,upperdir={base}/u,workdir=/dev/shm", MOUNT_FAILED, "workdir /dev/shm"),
        ("lowerdir={base}/l,upperdir={base}/u,workdir={base}/u", MOUNT_FAILED, "workdir"),
        ('lowerdir={base}/l,context="no such label"', MOUNT_FAILED, "mount on"),
    ],
)
def test_what_cannot_be_mounted_is_named_and_nothing_is_left(place: Place, options: str, code: int, named: str) -> None:
    done = place.mount(options=options.format(base=place.base))
    assert done.returncode == code
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert place.mounted() == []
    assert place.servers() == []


def test_root_of_another_user_namespace_is_told_what_it_lacks(place: Place) -> None:
    argv = ["unshare", "--user", "--map-root-user", "--mount", PROGRAM, str(place.target), "-o", place.options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == MOUNT_FAILED
    assert "initial user namespace" in done.stderr
    assert os.listdir(place.work) == []


def test_a_mount_point_that_is_not_there_is_an_error(place: Place) -> None:
    place.target.rmdir()
    assert place.mount().returncode == MOUNT_FAILED
    place.target.mkdir()


def test_without_upperdir_it_is_read_only(place: Place) -> None:
    assert place.mount(options=f"lowerdir={place.layer},rw").returncode == 0
    assert (place.target / "file").read_text() == "of the layer\n"
    with pytest.raises(OSError, match="Read-only"):
        (place.target / "new").write_text("")


def test_colons_commas_and_backslashes_in_paths_are_escaped(place: Place) -> None:
    names = ("a:b", "c,d", "e\\f", 'g"h')
    for name in names:
        (place.base / name).mkdir()
        (place.base / name / f"in {name}").touch()
    lowers = r"a\:b:c\,d:e\\f:" + 'g"h'
    assert place.mount(options=f"lowerdir={lowers}", cwd=place.base).returncode == 0
    assert sorted(os.listdir(place.target)) == sorted(f"in {name}" for name in names)


def test_flags_of_the_mount_are_kept_and_unknown_options_ignored(place: Place) -> None:
    assert place.mount("tree", options=f"{place.options},noexec,nodev,noatime,no_such=1,another").returncode == 0
    assert place.mounted() == [("fuse.pe-fuse-union", "tree")]
    flags = os.statvfs(place.target).f_flag
    assert flags & os.ST_NOEXEC
    assert flags & os.ST_NODEV
    assert flags & os.ST_NOATIME
    assert not flags & os.ST_NOSUID


def test_remounting_what_is_no_mount_of_it_is_an_error(place: Place) -> None:
    done = place.mount(options="remount,ro")
    assert (done.returncode, "no mount of pe-fuse-union is there" in done.stderr) == (1, True)


def test_owners_are_translated_as_the_mappings_say(place: Place) -> None:
    os.chown(place.layer / "file", 5, 7)
    assert place.mount(options=f"{place.options},uidmapping=0:1000:10,gidmapping=0:2000:10").returncode == 0
    shown = os.stat(place.target / "file")
    assert (shown.st_uid, shown.st_gid) == (1005, 2007)
    os.chown(place.target / "file", 1001, 2002)
    kept = os.stat(place.upper / "file")
    assert (kept.st_uid, kept.st_gid) == (1, 2)


def test_what_the_upper_directory_takes_can_be_limited(place: Place) -> None:
    assert place.mount(options=f"{place.options},size=2m").returncode == 0
    (place.target / "small").write_bytes(bytes(1 << 20))
    with pytest.raises(OSError, match="No space left"):
        (place.target / "large").write_bytes(b"x" * (2 << 20))
    assert (place.target / "small").stat().st_size == 1 << 20


def test_what_is_opened_in_layers_can_be_traced(place: Place) -> None:
    assert place.mount(options=f"{place.options},trace=trace", cwd=place.base).returncode == 0
    (place.target / "file").read_text()
    umount2(str(place.target))
    eventually(lambda: not place.servers())
    (line,) = (place.base / "trace").read_text().splitlines()
    assert "file" in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_in_the_foreground_it_stays_and_unmounts_on_a_signal(place: Place, number: signal.Signals) -> None:
    argv = [PROGRAM, "-f", str(place.target), "-o", place.options]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        eventually(lambda: place.mounted() or process.poll() is not None)
        assert (place.target / "file").exists()  # answered only once it serves
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert place.mounted() == []


def test_a_work_directory_in_use_is_refused(place: Place) -> None:
    assert place.mount().returncode == 0
    other = place.base / "other"
    other.mkdir()
    done = subprocess.run(
        [PROGRAM, str(other), "-o", place.options], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == MOUNT_FAILED
    assert "in use" in done.stderr
    (place.target / "still").write_text("well")
    assert (place.upper / "still").read_text() == "well"


def test_it_can_be_mounted_again_right_after_it_was_unmounted(place: Place) -> None:
    for round_number in range(3):
        assert place.mount().returncode == 0
        (place.target / str(round_number)).touch()
        umount2(str(place.target))
    assert sorted(os.listdir(place.upper)) == ["0", "1", "2"]


@pytest.mark.parametrize("covered", ["layer", "upper"])
def test_a_directory_it_is_made_of_may_be_the_mount_point(place: Place, covered: str) -> None:
    (place.upper / "of upper").touch()
    place.target = getattr(place, covered)
    place.called = str(place.target)
    assert place.mount().returncode == 0
    assert sorted(os.listdir(place.target)) == ["file", "of upper"]
    (place.target / "new").write_text("new")
    umount2(str(place.target))
    assert (place.upper / "new").read_text() == "new"


def test_it_can_cover_the_python_that_it_runs_by(place: Place) -> None:
    python = sys.base_prefix
    script = f"""
        set -e
        {PROGRAM} {python} -o lowerdir={python},upperdir={place.upper},workdir={place.work}
        {python}/bin/python3 -c 'import decimal, json, sqlite3; print("well")'
        echo new >{python}/pe-new
        ln -s pe-new {python}/pe-link
        {python}/bin/python3 -c 'import os; os.setxattr("{python}/pe-link", "trusted.n", b"v", follow_symlinks=False)'
        cat {python}/pe-link
        umount --lazy {python}
    """
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "well\nnew\n", "")
    assert not os.path.exists(f"{python}/pe-new")
    assert (place.upper / "pe-new").read_text() == "new\n"


def test_mount_finds_it_by_its_type(place: Place) -> None:
    need_tool("mount.fuse")
    # mount(8) hands a helper the path of the system, not ours.
    mount("tmpfs", "/usr/local/sbin", "tmpfs")
    try:
        os.symlink(PROGRAM, f"/usr/local/sbin/{NAME}")
        (place.base / "a,b").mkdir()
        (place.base / "a,b" / "below").touch()
        options = rf"lowerdir={place.layer}:{place.base}/a\,b,upperdir={place.upper},workdir={place.work},noatime"
        argv = ["mount", "-t", f"fuse.{NAME}", "overlay", str(place.target), "-o", options]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert place.mounted() == [("fuse.pe-fuse-union", "overlay")]
        assert sorted(os.listdir(place.target)) == ["below", "file"]
        assert os.statvfs(place.target).f_flag & os.ST_NOATIME
        (place.target / "new").touch()

        def remount(flag: str) -> None:
            words = ["mount", "-o", f"remount,{flag}", str(place.target)]
            subprocess.run(words, check=True, timeout=PATIENCE_S, capture_output=True)

        remount("ro")
        with pytest.raises(OSError, match="Read-only"):
            (place.target / "newer").touch()
        assert os.statvfs(place.target).f_flag & os.ST_NOATIME, "what was not named stays"
        remount("rw")
        (place.target / "newer").touch()
        subprocess.run(["umount", str(place.target)], check=True, timeout=PATIENCE_S)
        argv[-1] = "lowerdir=/nothing/there"
        assert subprocess.run(argv, capture_output=True, timeout=PATIENCE_S, check=False).returncode != 0
        assert place.mounted() == []
    finally:
        umount2("/usr/local/sbin", MNT_DETACH)


def test_complaints_in_the_background_go_to_syslog_line_by_line(place: Place) -> None:
    script = """
import sys
from plugengine_fuse_union import mount_program
mount_program._leave_streams()
print("nobody sees this")
sys.stderr.write("fuse_union: READ /x: ")
sys.stderr.write("it broke\\n")
raise ValueError("the end")
"""
    devices = place.base / "dev"
    devices.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.settimeout(PATIENCE_S)
        log.bind(str(devices / "log"))
        subprocess.run(["touch", str(devices / "null"), str(devices / "urandom")], check=True)
        enter = (
            f"cd {devices} && for each in null urandom; do mount --bind /dev/$each $each; done && mount --rbind . /dev"
        )
        argv = ["unshare", "--mount", "bash", "-c", f'{enter} && exec "$@"', "-", sys.executable, "-c", script]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert (done.stdout, done.stderr) == ("", "")
        lines = [log.recv(1024).decode().partition("]: ")[2]]
        while not lines[-1].startswith("ValueError"):
            lines.append(log.recv(1024).decode().partition("]: ")[2])
    assert lines[0] == "fuse_union: READ /x: it broke"
    assert lines[-1] == "ValueError: the end"


def test_it_tells_how_it_is_used() -> None:
    for words, expected in ((["--help"], "usage: pe-fuse-union"), (["--version"], "pe-fuse-union ")):
        done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(expected)


def test_whiteouts_of_archives_are_heeded_in_layers(place: Place) -> None:
    top, bottom = place.base / "top", place.base / "bottom"
    for layer in (top, bottom):
        layer.mkdir()
    (top / ".wh.file").touch()
    (bottom / "below").touch()
    (place.layer / ".wh..wh..opq").touch()
    (place.layer / "kept").touch()
    assert place.mount(options=f"lowerdir={top}:{place.layer}:{bottom}").returncode == 0
    assert os.listdir(place.target) == ["kept"]

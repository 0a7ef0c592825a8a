"""Images and containers that want out, each named after the attack it repeats; on the real kernel."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import pytest

from plugengine.errors import ImageError, UsageError
from plugengine.model import GuestPath, HostPath
from plugengine.runtime.accounts import read_accounts
from plugengine.runtime.request import ResolvedMount
from plugengine.spec import ImageConfig
from tests.system.guest.conftest import Container, Monitor, Outcome, Rootfs


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
def test_cve_2026_41579_an_image_with_a_link_instead_of_a_mount_point_is_refused(
    monitor: Monitor, rootfs: Rootfs, name: str
) -> None:
    victim = rootfs.path / "elsewhere"
    victim.mkdir()
    (rootfs.path / name).symlink_to("/elsewhere")
    done = monitor.run("true")
    assert done.code == 125
    assert done.error.endswith(f"(the image has a symbolic link there) (/{name})")
    assert list(victim.iterdir()) == []


@pytest.mark.parametrize("link", ["/elsewhere", "../../../../../../../elsewhere", "/proc/self/root/elsewhere"])
def test_cve_2021_30465_a_link_out_of_the_root_leads_a_mount_nowhere_else(
    monitor: Monitor, rootfs: Rootfs, tmp_path: Path, link: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "mark").touch()
    (rootfs.path / "place").symlink_to(link)
    done = monitor.sh(
        "ls /place/ 2>&1; ls /elsewhere",
        mounts=(ResolvedMount(target=GuestPath("/place"), source=HostPath(str(data))),),
    )
    assert not Path("/elsewhere").exists()
    assert done.error == "" or done.code == 125
    assert done.error or done.lines == ["mark", "mark"]


def test_cve_2019_19921_a_link_into_procfs_is_no_place_for_a_volume(
    monitor: Monitor, rootfs: Rootfs, tmp_path: Path
) -> None:
    (rootfs.path / "data").symlink_to("/proc/self/attr")
    done = monitor.run("true", mounts=(ResolvedMount(target=GuestPath("/data"), source=HostPath(str(tmp_path))),))
    assert done.code == 125
    assert "a symbolic link of the image leads into procfs" in done.error


@pytest.mark.parametrize("target", ["/proc", "/proc/sys", "//proc/../proc/self/attr", "/data/../proc/1"])
def test_cve_2019_16884_procfs_cannot_be_covered(monitor: Monitor, tmp_path: Path, target: str) -> None:
    mounts = (ResolvedMount(target=GuestPath(target), source=HostPath(str(tmp_path))),)
    with pytest.raises(UsageError, match="procfs is the container's own"):
        Container(monitor.rootfs.request("true", mounts=mounts))


def test_cve_2025_31133_a_volume_over_dev_with_a_false_null_device_masks_nothing(
    monitor: Monitor, tmp_path: Path
) -> None:
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "null").symlink_to("/proc/sys/kernel/core_pattern")
    done = monitor.run("true", mounts=(ResolvedMount(target=GuestPath("/dev"), source=HostPath(str(dev))),))
    assert done.code == 125
    assert done.error.startswith("mask /proc/interrupts: Too many levels of symbolic links")
    (dev / "null").unlink()
    (dev / "null").write_text("")
    done = monitor.run("true", mounts=(ResolvedMount(target=GuestPath("/dev"), source=HostPath(str(dev))),))
    assert "not the null device" in done.error


def test_cve_2024_21626_a_working_directory_through_a_descriptor_is_refused(monitor: Monitor) -> None:
    for number in range(3, 12):
        done = monitor.run("true", config=ImageConfig(working_dir=f"/proc/self/fd/{number}"))
        assert done.code == 125
        assert f" /proc/self/fd/{number}: " in done.error


def test_cve_2024_21626_a_link_to_a_descriptor_made_inside_is_refused_by_exec(monitor: Monitor) -> None:
    def use(container: Container) -> list[Outcome]:
        container.exec(("/bin/sh", "-c", "for n in 3 4 5 6 7 8 9; do ln -s /proc/self/fd/$n /tmp/$n; done"))
        return [container.exec(("pwd",), working_dir=GuestPath(f"/tmp/{number}")) for number in range(3, 10)]

    for done in monitor.beside(use):
        assert done.code == 125
        assert done.stdout == ""


def test_cve_2024_21626_no_descriptor_of_the_monitor_comes_along(monitor: Monitor, tmp_path: Path) -> None:
    def run() -> str:
        leaked = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        os.set_inheritable(leaked, True)
        container = Container(monitor.rootfs.request("ls", "/proc/self/fd"))
        container.start()
        return container.finish().stdout

    assert monitor(run) == "0\n1\n2\n3\n"  # 3 is the directory that ls reads


@pytest.mark.parametrize("place", ["/proc/self/exe", "/proc/self/root/../proc/self/exe", "/proc/thread-self/exe"])
def test_cve_2019_5736_a_program_that_is_the_engine_does_not_run(monitor: Monitor, rootfs: Rootfs, place: str) -> None:
    (rootfs.path / "evil").symlink_to(place)
    rootfs.program("script", f"#!{place}\n")
    assert monitor.run(place, "-c", "print('escaped')").code == 126
    assert monitor.run("/evil", "-c", "print('escaped')").code == 126
    assert monitor.run("/script").code == 126
    assert monitor.run("exe", env=("PATH=/proc/self",)).code == 126


def test_cve_2019_5736_exec_into_a_container_does_not_run_the_engine(monitor: Monitor) -> None:
    script = "ln -s /proc/self/exe /tmp/evil; printf '#!/proc/self/exe\\n' > /tmp/script; chmod 755 /tmp/script"

    def use(container: Container) -> list[Outcome]:
        container.exec(("/bin/sh", "-c", script))
        return [container.exec((name, "-c", "print(1)")) for name in ("/tmp/evil", "/tmp/script", "/proc/self/exe")]

    # The program is looked for before we are in the pid namespace, whose procfs has no "self" for us until then.
    assert [(done.code, done.stdout) for done in monitor.beside(use)] == [(127, ""), (126, ""), (127, "")]


def test_cve_2016_9962_a_joining_process_cannot_be_looked_into_from_inside(monitor: Monitor) -> None:
    # A process with the container's capabilities tries to read every other one while exec is under way.
    script = (
        "end=$(($(date +%s) + 2)); while [ $(date +%s) -lt $end ]; do for p in /proc/[0-9]*; do "
        "r=$(readlink $p/exe) && case $r in *python*) echo caught $r;; esac; done; done 2>/dev/null"
    )

    def use(container: Container) -> str:
        watcher = os.fork()
        if watcher == 0:
            done = container.exec(("/bin/sh", "-c", script))
            os.write(1, done.stdout.encode())
            os._exit(1 if "caught" in done.stdout else 0)
        for _ in range(15):
            container.exec(("true",))
        _pid, status = os.waitpid(watcher, 0)
        return "caught" if status else ""

    assert monitor.beside(use) == ""


def test_cve_2025_52565_a_terminal_from_a_false_devpts_is_refused(monitor: Monitor) -> None:
    script = "umount -l /dev/pts && rmdir /dev/pts && ln -s /tmp /dev/pts"

    def use(container: Container) -> tuple[Outcome, Outcome]:
        return container.exec(("/bin/sh", "-c", script), privileged=True), container.exec(("tty",), tty=True)

    moved, done = monitor.beside(use)
    assert moved.code == 0
    assert done.code == 125
    assert done.error.startswith("open a terminal inside the container: Too many levels of symbolic links")


def test_cve_2025_52565_a_plain_file_called_ptmx_is_no_terminal(monitor: Monitor) -> None:
    def use(container: Container) -> Outcome:
        container.exec(("/bin/sh", "-c", "umount -l /dev/pts && touch /dev/pts/ptmx"), privileged=True)
        return container.exec(("tty",), tty=True)

    done = monitor.beside(use)
    assert done.code == 125
    assert "not in devpts" in done.error


def test_cve_2022_0492_the_cgroup_filesystem_cannot_be_mounted_writable(monitor: Monitor) -> None:
    done = monitor.sh(
        "mkdir /tmp/c; mount -t cgroup -o memory cgroup /tmp/c; unshare -UrmC true; echo $?",
        seccomp="default",
    )
    assert done.lines == ["1"]
    assert "permission denied" in done.stderr
    assert "unshare failed: Operation not permitted" in done.stderr


@pytest.mark.parametrize("name", ["etc/passwd", "etc/group"])
@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "device", "huge"])
def test_cve_2024_9676_a_file_of_accounts_that_is_none_is_refused_at_once(rootfs: Rootfs, name: str, kind: str) -> None:
    path = rootfs.path / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link to a fifo":
        os.mkfifo(rootfs.path / "fifo")
        path.symlink_to("/fifo")
    elif kind == "device":
        os.mknod(path, 0o20666, os.makedev(1, 5))
    else:
        with path.open("wb") as stream:
            stream.truncate(1 << 30)
    with pytest.raises(ImageError, match=f"read /{name} of the image"):
        read_accounts(HostPath(str(rootfs.path)))


def test_a_link_from_the_accounts_to_the_host_stays_inside(rootfs: Rootfs) -> None:
    (rootfs.path / "etc/passwd").unlink()
    (rootfs.path / "etc/passwd").symlink_to("/../../../../../../etc/shadow")
    assert read_accounts(HostPath(str(rootfs.path))).passwd == b""


def test_cve_2019_14271_nothing_is_imported_or_loaded_as_code_inside(monitor: Monitor) -> None:
    """What every child's interpreter imports, compiles or loads is recorded in memory shared with it."""

    def run() -> str:
        record = mmap.mmap(-1, 1 << 16)
        born = os.getpid()

        def hook(event: str, args: tuple[object, ...]) -> None:
            if os.getpid() != born and event in {"import", "compile", "exec", "ctypes.dlopen"}:
                record.write(f"{event} {args[0]}\n".encode())

        sys.addaudithook(hook)
        for command in ("true", "nonesuch"):
            for init in (False, True):
                container = Container(monitor.rootfs.request(command, tty=True, init=init, user="alice"))
                container.start()
                container.finish()
        container = Container(monitor.rootfs.request("sleep", "100"))
        container.start()
        container.exec(("true",), tty=True)
        container.exec(("nonesuch",), user="alice", privileged=True)
        container.exec(("true",), working_dir=GuestPath("/nowhere"))
        container.kill()
        container.finish()
        return record[:].rstrip(b"\0").decode()

    assert monitor(run) == ""

"""Containers in a user namespace of their own, on the real kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plugengine.errors import UsageError
from plugengine.kernel.process import CLONE_NEWNET
from plugengine.model import GuestPath, HostPath, IdRange, UserMap
from plugengine.runtime.request import ResolvedMount
from plugengine.spec import Device, ImageConfig
from tests.system.guest.conftest import ALL_NAMESPACES, USER_MAP, Container, Monitor, Rootfs

FIRST = USER_MAP.uids[0].host


def test_root_inside_is_nobody_outside(monitor: Monitor, rootfs: Rootfs) -> None:
    done = monitor.sh("id -u; id -G; cat /proc/self/uid_map; touch /tmp/mark", user_map=USER_MAP)
    assert done.error == ""
    assert done.lines[0] == "0"
    assert done.lines[1] == "0"
    assert done.lines[2].split() == ["0", str(FIRST), "65536"]
    assert (rootfs.path / "tmp/mark").stat().st_uid == FIRST


def test_another_user_is_mapped_too(monitor: Monitor, rootfs: Rootfs) -> None:
    done = monitor.sh("id -u; touch /tmp/mark", user="alice", user_map=USER_MAP)
    assert done.lines == ["1000"]
    assert (rootfs.path / "tmp/mark").stat().st_uid == FIRST + 1000


def test_the_devices_are_the_hosts_and_work(monitor: Monitor) -> None:
    done = monitor.sh(
        "echo gone > /dev/null; head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c; stat -c %t:%T /dev/full",
        user_map=USER_MAP,
    )
    assert (done.stderr, done.lines) == ("", ["3", "5", "1:7"])


def test_an_asked_for_device_is_bound(monitor: Monitor) -> None:
    devices = (Device(host=HostPath("/dev/kmsg"), guest=GuestPath("/dev/messages")),)
    done = monitor.sh("stat -c %t:%T /dev/messages", devices=devices, user_map=USER_MAP)
    assert (done.error, done.stdout) == ("", "1:b\n")


def test_masks_read_only_paths_and_sysctls_hold(monitor: Monitor) -> None:
    done = monitor.sh(
        "wc -c < /proc/interrupts; ls /sys/firmware | wc -l; cat /proc/sys/kernel/shmmax;"
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo 1 > /proc/sys/kernel/shmmax; uname -n",
        user_map=USER_MAP,
        sysctls={"kernel.shmmax": "123456"},
    )
    assert done.lines == ["0", "0", "123456", "0", "box"]
    assert "Read-only file system" in done.stderr


def test_a_terminal_belongs_to_the_user(monitor: Monitor) -> None:
    done = monitor.sh("tty; stat -c '%u %g' $(tty); echo x > /dev/console", tty=True, user="alice", user_map=USER_MAP)
    assert done.lines == ["/dev/pts/0", "1000 5", "x"]


def test_a_map_without_the_terminal_group_still_gives_a_terminal(monitor: Monitor) -> None:
    small = UserMap(uids=(IdRange(guest=0, host=FIRST, size=1),), gids=(IdRange(guest=0, host=FIRST, size=1),))
    done = monitor.sh("tty; id -u", tty=True, user_map=small)
    assert (done.error, done.lines) == ("", ["/dev/pts/0", "0"])


def test_a_user_that_is_not_mapped_is_refused_before_anything_starts(monitor: Monitor) -> None:
    small = UserMap(uids=(IdRange(guest=0, host=FIRST, size=1),), gids=(IdRange(guest=0, host=FIRST, size=1),))
    with pytest.raises(UsageError, match="user 1000: not in the container's user namespace"):
        Container(monitor.rootfs.request("true", user="alice", user_map=small))


def test_the_hosts_network_is_shared_with_its_sysfs_bound(monitor: Monitor) -> None:
    script = "ls /sys/class/net; cat /proc/self/mountinfo; touch /sys/x"
    done = monitor.sh(script, user_map=USER_MAP, namespaces=ALL_NAMESPACES & ~CLONE_NEWNET)
    assert done.error == ""
    assert set(os.listdir("/sys/class/net")) <= set(done.stdout.split())
    assert any(" /sys ro," in line for line in done.lines)
    assert "Read-only file system" in done.stderr


def test_directories_only_the_real_root_can_walk_are_no_obstacle_to_a_volume(monitor: Monitor, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "data").mkdir(parents=True)
    (closed / "data/file").write_text("content\n")
    closed.chmod(0o700)
    os.chown(closed, 12345, 12345)
    data = ResolvedMount(target=GuestPath("/data"), source=HostPath(str(closed / "data")))
    assert monitor.sh("cat /data/file", mounts=(data,), user_map=USER_MAP).stdout == "content\n"


def test_init_works(monitor: Monitor) -> None:
    done = monitor.sh("echo $$; exit 6", init=True, user_map=USER_MAP)
    assert (done.error, done.lines, done.code) == ("", ["2"], 6)


def test_a_missing_working_directory_belongs_to_root_inside(monitor: Monitor, rootfs: Rootfs) -> None:
    done = monitor.sh("stat -c %u /srv/app", config=ImageConfig(working_dir="/srv/app"), user_map=USER_MAP)
    assert done.stdout == "0\n"
    assert (rootfs.path / "srv/app").stat().st_uid == FIRST

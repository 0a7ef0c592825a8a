"""What a container sees mounted, on the real kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plugengine.kernel import mount
from plugengine.model import GuestPath, HostPath, Mount
from plugengine.runtime.request import InsideRequest, ResolvedMount
from plugengine.spec import ImageConfig
from tests.system.guest.conftest import Monitor, Rootfs


def _mounts(text: str) -> dict[str, tuple[str, str, str]]:
    """Return (options, type, optional fields) by mount point of a mountinfo; the last one of a place counts."""
    found = {}
    for line in text.splitlines():
        left, dash, right = line.partition(" - ")
        fields = left.split()
        if not dash:
            continue
        found[fields[4]] = (fields[5], right.split()[0], " ".join(fields[6:]))
    return found


def test_the_kernel_filesystems_are_mounted_as_docker_mounts_them(monitor: Monitor) -> None:
    seen = _mounts(monitor.sh("cat /proc/self/mountinfo").stdout)
    closed = "nosuid,nodev,noexec,relatime"
    assert seen["/proc"][:2] == (f"rw,{closed}", "proc")
    assert seen["/sys"][:2] == (f"ro,{closed}", "sysfs")
    assert seen["/dev"][:2] == ("rw,nosuid", "tmpfs")
    assert seen["/dev/pts"][:2] == ("rw,nosuid,noexec,relatime", "devpts")
    assert seen["/dev/shm"][:2] == (f"rw,{closed}", "tmpfs")
    assert seen["/dev/mqueue"][:2] == (f"rw,{closed}", "mqueue")


def test_nothing_of_the_host_stays_mounted_and_nothing_is_shared_with_it(monitor: Monitor) -> None:
    seen = _mounts(monitor.sh("cat /proc/self/mountinfo").stdout)
    assert all(place == "/" or place.split("/")[1] in {"proc", "sys", "dev", "usr"} for place in seen)
    assert {fields for _options, _type, fields in seen.values()} == {""}


def test_the_sizes_of_dev_and_shm_are_held(monitor: Monitor) -> None:
    done = monitor.sh("df -k --output=size /dev /dev/shm | tail -2; stat -c %a /dev /dev/shm", shm_size_bytes=8 << 20)
    assert done.stdout.split() == ["65536", "8192", "755", "1777"]


def test_dev_holds_the_usual_nodes_and_links_and_nothing_else(monitor: Monitor) -> None:
    done = monitor.sh(
        "cd /dev; for n in *; do if [ -L $n ]; then echo $n=$(readlink $n); else stat -c '%n %F %t:%T %a' $n; fi; done"
    )
    assert done.lines == [
        "core=/proc/kcore",
        "fd=/proc/self/fd",
        "full character special file 1:7 666",
        "mqueue directory 0:0 1777",
        "null character special file 1:3 666",
        "ptmx=pts/ptmx",
        "pts directory 0:0 755",
        "random character special file 1:8 666",
        "shm directory 0:0 1777",
        "stderr=/proc/self/fd/2",
        "stdin=/proc/self/fd/0",
        "stdout=/proc/self/fd/1",
        "tty character special file 5:0 666",
        "urandom character special file 1:9 666",
        "zero character special file 1:5 666",
    ]


def test_masked_paths_are_empty_and_read_only_paths_refuse_writes(monitor: Monitor) -> None:
    done = monitor.sh(
        "wc -c < /proc/interrupts; wc -c < /proc/keys; ls /sys/firmware | wc -l; ls /proc/acpi | wc -l;"
        "echo 1 > /proc/sys/kernel/panic; echo h > /proc/sysrq-trigger; mkdir /sys/firmware/x; touch /sys/kernel/x"
    )
    assert done.lines == ["0", "0", "0", "0"]
    assert "panic: Read-only file system" in done.stderr
    assert "mkdir: cannot create directory '/sys/firmware/x': Read-only file system" in done.stderr
    assert "touch: cannot touch '/sys/kernel/x': Read-only file system" in done.stderr


def test_unmasked_paths_are_the_kernels_own(monitor: Monitor) -> None:
    done = monitor.sh("wc -c < /proc/interrupts; test -w /proc/sys/kernel/shmmax && echo writable", unmasked=True)
    assert int(done.lines[0]) > 0
    assert done.lines[1] == "writable"


def test_a_privileged_container_has_the_hosts_devices_and_writable_kernel_filesystems(monitor: Monitor) -> None:
    done = monitor.sh("cat /proc/self/mountinfo; ls /dev", privileged=True)
    seen = _mounts(done.stdout)
    assert seen["/sys"][0].startswith("rw,")
    assert "/proc/sys" not in seen
    assert "/proc/keys" not in seen
    theirs = {name for name in os.listdir("/dev") if Path("/dev", name).is_block_device()}
    assert theirs <= set(done.stdout.split())


def test_a_read_only_root_refuses_writes_but_tmpfs_and_volumes_take_them(monitor: Monitor, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    done = monitor.sh(
        "touch /x; touch /tmp/y && touch /data/z && echo fine; cat /etc/hostname; touch /etc/hostname",
        read_only=True,
        etc_files={GuestPath("/etc/hostname"): HostPath(str(tmp_path / "hostname"))},
        mounts=(
            ResolvedMount(target=GuestPath("/tmp")),
            ResolvedMount(target=GuestPath("/data"), source=HostPath(str(data))),
        ),
    )
    assert done.lines == ["fine"]
    assert "touch: cannot touch '/x': Read-only file system" in done.stderr
    assert "touch: cannot touch '/etc/hostname': Read-only file system" in done.stderr
    assert (data / "z").exists()


def test_files_of_etc_written_after_the_clone_are_seen_inside(monitor: Monitor, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    done = monitor.sh(
        "echo '10.9.8.7 peer' >> /etc/hosts; cat /etc/hosts",
        etc_files={GuestPath("/etc/hosts"): HostPath(str(hosts))},
    )
    assert done.stdout == hosts.read_text() == "10.9.8.7 peer\n"


def test_a_read_only_bind_is_read_only_all_the_way_down(monitor: Monitor, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)

    def run() -> str:
        mount.mount("tmpfs", str(data / "sub"), "tmpfs")
        request = monitor.rootfs.request(
            "/bin/sh",
            "-c",
            "touch /data/a; touch /data/sub/b; df --output=fstype /data/sub | tail -1",
            mounts=(ResolvedMount(target=GuestPath("/data"), source=HostPath(str(data)), read_only=True),),
        )
        return _run(request)

    output = monitor(run)
    assert "cannot touch '/data/a': Read-only" in output
    assert "cannot touch '/data/sub/b': Read-only" in output
    assert output.endswith("tmpfs\n")


def test_a_bind_that_is_not_recursive_leaves_the_mounts_below_behind(monitor: Monitor, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)

    def run() -> str:
        mount.mount("tmpfs", str(data / "sub"), "tmpfs")
        return _run(
            monitor.rootfs.request(
                "/bin/sh",
                "-c",
                "df --output=fstype /data/sub | tail -1",
                mounts=(ResolvedMount(target=GuestPath("/data"), source=HostPath(str(data)), recursive=False),),
            )
        )

    assert monitor(run) != "tmpfs\n"


@pytest.mark.parametrize(("word", "arrives"), [("rprivate", False), ("rslave", True)])
def test_a_mount_made_on_the_host_later_arrives_only_in_a_slave(
    monitor: Monitor, tmp_path: Path, word: str, arrives: bool
) -> None:
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    fifo = data / "go"
    os.mkfifo(fifo)

    def run() -> str:
        mount.mount(str(data), str(data), None, mount.MS_BIND)
        mount.mount(None, str(data), None, mount.MS_SHARED)
        from tests.system.guest.conftest import Container

        container = Container(
            monitor.rootfs.request(
                "/bin/sh",
                "-c",
                "cat /data/go; df --output=fstype /data/sub | tail -1",
                mounts=(ResolvedMount(target=GuestPath("/data"), source=HostPath(str(data)), propagation=word),),
            )
        )
        container.start()
        mount.mount("tmpfs", str(data / "sub"), "tmpfs")
        fifo.write_text("")
        return container.finish().stdout

    assert (monitor(run) == "tmpfs\n") is arrives


def test_the_mount_nearest_to_the_root_comes_first_whatever_the_order_of_flags(
    monitor: Monitor, tmp_path: Path
) -> None:
    (tmp_path / "outer").mkdir()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/file").write_text("inner\n")
    done = monitor.sh(
        "cat /data/deep/down/file",
        mounts=(
            ResolvedMount(target=GuestPath("/data/deep/down"), source=HostPath(str(tmp_path / "inner"))),
            ResolvedMount(target=GuestPath("/data"), source=HostPath(str(tmp_path / "outer"))),
        ),
    )
    assert done.stdout == "inner\n"
    assert (tmp_path / "outer/deep/down").is_dir()


def test_a_file_is_bound_on_a_file_that_is_made(monitor: Monitor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    done = monitor.sh(
        "cat /new/place/file",
        mounts=(ResolvedMount(target=GuestPath("/new/place/file"), source=HostPath(str(tmp_path / "file"))),),
    )
    assert done.stdout == "content\n"


def test_a_directory_on_a_file_is_refused_with_both_names(monitor: Monitor, tmp_path: Path) -> None:
    done = monitor.run("true", mounts=(ResolvedMount(target=GuestPath("/etc/passwd"), source=HostPath(str(tmp_path))),))
    assert done.code == 125
    assert done.error == f"bind {tmp_path} on /etc/passwd: Not a directory (/etc/passwd)"


def test_a_link_inside_the_image_leads_a_mount_to_its_target_inside(monitor: Monitor, rootfs: Rootfs) -> None:
    (rootfs.path / "run").mkdir()
    (rootfs.path / "var").mkdir()
    (rootfs.path / "var/run").symlink_to("/run")
    done = monitor.sh(
        "df --output=fstype /run/data | tail -1", mounts=(ResolvedMount(target=GuestPath("/var/run/data")),)
    )
    assert done.stdout == "tmpfs\n"


def test_a_tmpfs_has_its_options_and_else_the_mode_of_the_directory(monitor: Monitor, rootfs: Rootfs) -> None:
    (rootfs.path / "cache").mkdir(mode=0o750)
    done = monitor.sh(
        "stat -c %a /cache /run /new; df -k --output=size /run | tail -1; cat /proc/self/mountinfo",
        mounts=(
            ResolvedMount(target=GuestPath("/cache")),
            ResolvedMount(target=GuestPath("/run"), options=(("size", "1m"), ("mode", "0700"), ("exec", None))),
            ResolvedMount(target=GuestPath("/new")),
        ),
    )
    assert done.stdout.split()[:4] == ["750", "700", "1777", "1024"]
    seen = _mounts(done.stdout)
    assert seen["/cache"][0] == "rw,nosuid,nodev,noexec,relatime"
    assert seen["/run"][0] == "rw,nosuid,nodev,relatime"


def test_a_volume_of_the_caller_takes_the_place_of_shm(monitor: Monitor, tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    done = monitor.sh(
        "ls /dev/shm", mounts=(ResolvedMount(target=GuestPath("/dev/shm"), source=HostPath(str(tmp_path))),)
    )
    assert "mark" in done.lines


def test_cgroup_mounts_appear_below_a_read_only_tmpfs(monitor: Monitor) -> None:
    hierarchies = [
        line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup " in line
    ]
    if not any(path.endswith("/pids") for path in hierarchies):
        pytest.skip("needs a cgroup v1 pids hierarchy")
    closed = mount.MS_RDONLY | mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC
    done = monitor.sh(
        "cat /proc/self/mountinfo /proc/self/cgroup; cd /sys/fs/cgroup; mkdir x; mkdir pids/x; cat pids/cgroup.procs",
        cgroup_mounts=(
            Mount(fstype="tmpfs", source="tmpfs", target=HostPath("/"), flags=closed, options=(("mode", "755"),)),
            Mount(fstype="cgroup", source="cgroup", target=HostPath("/pids"), flags=closed, options=(("pids", None),)),
        ),
    )
    seen = _mounts(done.stdout)
    assert seen["/sys/fs/cgroup"][:2] == ("ro,nosuid,nodev,noexec,relatime", "tmpfs")
    assert seen["/sys/fs/cgroup/pids"][:2] == ("ro,nosuid,nodev,noexec,relatime", "cgroup")
    assert any(line.endswith(":pids:/") for line in done.lines)
    assert done.stderr.count("Read-only file system") == 2
    assert "1" in done.lines


def test_a_missing_working_directory_is_made(monitor: Monitor, rootfs: Rootfs) -> None:
    done = monitor.sh("pwd; stat -c %u:%a .", config=ImageConfig(working_dir="srv/app"))
    assert done.lines == ["/srv/app", "0:755"]
    assert (rootfs.path / "srv/app").is_dir()


def test_shm_of_another_container_can_be_shared(monitor: Monitor) -> None:
    def run() -> str:
        import msgspec

        from tests.system.guest.conftest import Container

        first = Container(monitor.rootfs.request("/bin/sh", "-c", "echo mine > /dev/shm/mark; echo; sleep 100"))
        first.start()
        while not first.output():
            pass
        request = monitor.rootfs.request("cat", "/dev/shm/mark")
        second = Container(msgspec.structs.replace(request, shm=HostPath(f"/proc/{first.pid}/root/dev/shm")))
        second.start()
        done = second.finish()
        first.kill()
        first.finish()
        return done.stdout

    assert monitor(run) == "mine\n"


def _run(request: InsideRequest) -> str:
    from tests.system.guest.conftest import Container

    container = Container(request)
    container.start()
    done = container.finish()
    return done.error + done.stderr + done.stdout

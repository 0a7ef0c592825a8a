"""What a container must not be able to do, tried from inside; and known attacks on engines, each by its name."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system.conftest import Start, eventually
from tests.waiting import PATIENCE_S

NONE = ("--net", "none")
RUN = ("run", "--rm", *NONE)
DEFAULT_CAPABILITIES = 0xA80425FB
# Numbers of include/uapi/linux/capability.h.
NET_RAW, SYS_ADMIN, SYS_TIME = 13, 21, 25


def syscall(*words: object) -> str:
    """Return a Python program that makes one system call and prints the name of its error, or "ok"."""
    arguments = ", ".join(f"ctypes.c_long({word})" if isinstance(word, int) else repr(word) for word in words)
    return (
        "import ctypes, errno; libc = ctypes.CDLL(None, use_errno=True); "
        f"done = libc.syscall({arguments}); "
        "print('ok' if done >= 0 else errno.errorcode[ctypes.get_errno()])"
    )


# --- capabilities ------------------------------------------------------------------------------------------


def capabilities(pe: Pe, *flags: str) -> dict[str, int]:
    """Return the capability sets a command gets."""
    text = pe(*RUN, *flags, "host:base", "cat", "/proc/self/status", check=True).stdout
    return {name: int(value, 16) for name, value in re.findall(r"^Cap(\w+):\t(\w+)$", text, re.MULTILINE)}


def test_the_fourteen_default_capabilities_and_none_to_pass_on(pe: Pe) -> None:
    found = capabilities(pe)
    assert found["Prm"] == found["Eff"] == found["Bnd"] == DEFAULT_CAPABILITIES
    assert found["Inh"] == found["Amb"] == 0, "CVE-2022-24769: inheritable capabilities survive execve"


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (("--cap-add", "SYS_TIME"), DEFAULT_CAPABILITIES | 1 << SYS_TIME),
        (("--cap-add", "cap_sys_time"), DEFAULT_CAPABILITIES | 1 << SYS_TIME),
        (("--cap-drop", "NET_RAW"), DEFAULT_CAPABILITIES & ~(1 << NET_RAW)),
        (("--cap-drop", "ALL"), 0),
        (("--cap-drop", "ALL", "--cap-add", "NET_RAW"), 1 << NET_RAW),
    ],
    ids=["add", "long name", "drop", "drop all", "drop all but one"],
)
def test_capabilities_are_added_and_dropped(pe: Pe, flags: tuple[str, ...], wanted: int) -> None:
    found = capabilities(pe, *flags)
    assert found["Eff"] == found["Bnd"] == wanted
    assert found["Inh"] == found["Amb"] == 0


def test_a_capability_nobody_knows_is_refused(pe: Pe) -> None:
    done = pe(*RUN, "--cap-add", "SYS_ADMIM", "host:base", "true")
    assert done.returncode == 125
    assert "SYS_ADMIM" in done.stderr


def test_privileged_means_everything(pe: Pe) -> None:
    own = re.findall(r"CapEff:\t(\w+)", Path("/proc/self/status").read_text())[0]
    assert capabilities(pe, "--privileged")["Eff"] == int(own, 16)
    script = "grep Seccomp: /proc/self/status; mount -t tmpfs x /mnt && echo mounted"
    script += "; test -w /proc/sys/kernel/panic && echo rw"
    done = pe(*RUN, "--privileged", "host:base", "sh", "-c", script, check=True)
    assert done.stdout == "Seccomp:\t0\nmounted\nrw\n"
    devices = pe(*RUN, "--privileged", "host:base", "ls", "/dev", check=True).stdout.split()
    assert {"null", "kmsg", "loop-control"} <= set(devices)


# --- system calls ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def box(pe_env: Pe) -> Iterator[str]:
    """A container with Python and the default protections."""
    name = pe_env("run", "-d", *NONE, "host:python", "sleep", "1000", check=True).stdout.strip()
    yield name
    pe_env("rm", "-f", name)


# Numbers of x86-64 would not do elsewhere: looked up by name on the host.
def _number(name: str) -> int:
    found = subprocess.run(
        ["gcc", "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"],
        capture_output=True,
        text=True,
        check=True,
    )
    match = re.search(rf"#define __NR_{name} (\d+)", found.stdout)
    assert match, name
    return int(match[1])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mount", (0, 0, 0, 0, 0)),
        ("umount2", (0, 0)),
        ("pivot_root", (0, 0)),
        ("unshare", (0x10000000,)),
        ("setns", (0, 0)),
        ("keyctl", (0, -3, 0)),
        ("add_key", (0, 0, 0, 0, -1)),
        ("bpf", (0, 0, 0)),
        ("reboot", (0, 0, 0)),
        ("kexec_load", (0, 0, 0, 0)),
        ("init_module", (0, 0, 0)),
        ("finit_module", (0, 0, 0)),
        ("delete_module", (0, 0)),
        ("perf_event_open", (0, 0, 0, 0, 0)),
        ("userfaultfd", (0,)),
        ("open_by_handle_at", (0, 0, 0)),
        ("swapon", (0, 0)),
        ("settimeofday", (0, 0)),
        ("acct", (0,)),
        ("quotactl", (0, 0, 0, 0)),
        ("io_uring_setup", (1, 0)),
        ("fsopen", (0, 0)),
        ("open_tree", (0, 0, 0)),
        ("move_mount", (0, 0, 0, 0, 0)),
        ("mount_setattr", (0, 0, 0, 0, 0)),
    ],
)
def test_a_dangerous_system_call_is_refused(pe: Pe, box: str, name: str, arguments: tuple[int, ...]) -> None:
    done = pe("exec", box, "python3", "-c", syscall(_number(name), *arguments), check=True)
    assert done.stdout in ("EPERM\n", "ENOSYS\n")


def test_clone3_is_unknown_so_that_libraries_fall_back(pe: Pe, box: str) -> None:
    assert pe("exec", box, "python3", "-c", syscall(_number("clone3"), 0, 0), check=True).stdout == "ENOSYS\n"


@pytest.mark.parametrize(
    "words",
    [
        ("unshare", "--user", "true"),
        ("mount", "-t", "tmpfs", "x", "/mnt"),
        ("umount", "/proc/acpi"),
        ("mount", "-o", "remount,rw", "/proc/sys"),
        ("date", "-s", "2030-01-01"),
        ("hostname", "other"),
        ("dd", "if=/dev/mem", "count=1"),
        ("chroot", "/proc/1/root", "mount", "-t", "tmpfs", "x", "/mnt"),
    ],
    ids=lambda words: words[0],
)
def test_an_ordinary_tool_is_refused_what_needs_more(pe: Pe, box: str, words: tuple[str, ...]) -> None:
    assert pe("exec", box, *words).returncode != 0


def test_a_profile_of_ones_own_replaces_the_default(pe: Pe, tmp_path: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    flags = ("--security-opt", f"seccomp={tmp_path}/profile.json")
    done = pe(*RUN, *flags, "host:base", "sh", "-c", "mkdir /x; grep Seccomp: /proc/self/status")
    assert "Operation not permitted" in done.stderr
    assert done.stdout == "Seccomp:\t2\n"
    assert pe(*RUN, "host:base", "mkdir", "/x").returncode == 0


def test_the_filter_can_be_left_out(pe: Pe) -> None:
    flags = ("--security-opt", "seccomp=unconfined")
    done = pe(
        *RUN, *flags, "host:base", "sh", "-c", "grep Seccomp: /proc/self/status; unshare --user echo done", check=True
    )
    assert done.stdout == "Seccomp:\t0\ndone\n"


def test_no_new_privileges_makes_set_id_programs_ordinary(pe: Pe) -> None:
    script = "cp /usr/bin/id /id; chmod 4755 /id; setpriv --reuid 1000 --clear-groups /id -u"
    assert pe(*RUN, "host:base", "sh", "-c", script, check=True).stdout == "0\n"
    flags = ("--security-opt", "no-new-privileges")
    assert pe(*RUN, *flags, "host:base", "sh", "-c", script, check=True).stdout == "1000\n"


# --- devices -----------------------------------------------------------------------------------------------


def test_dev_holds_what_docker_has_and_nothing_else(pe: Pe) -> None:
    found = set(pe(*RUN, "host:base", "ls", "/dev", check=True).stdout.split())
    assert found == {
        "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    }  # fmt: skip


@pytest.mark.parametrize("storage", ["overlay", "fuse_union"])
@pytest.mark.parametrize(
    ("kind", "number"), [("b", "254 0"), ("c", "1 1"), ("c", "10 229")], ids=["disk", "mem", "fuse"]
)
def test_a_device_node_made_inside_opens_nothing(pe: Pe, storage: str, kind: str, number: str) -> None:
    script = f"mknod /node {kind} {number} && head -c 1 /node"
    done = pe(*RUN, "--storage", storage, "host:base", "sh", "-c", script)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "not permitted" in done.stderr or "Permission denied" in done.stderr


def test_a_device_given_can_be_used_as_far_as_it_was_given(pe: Pe) -> None:
    script = "stat -c %t:%T /dev/loops; exec 3< /dev/loops && echo read; exec 4> /dev/loops"
    done = pe(*RUN, "--device", "/dev/loop-control:/dev/loops:r", "host:base", "sh", "-c", script)
    assert done.stdout == "a:ed\nread\n"
    assert "not permitted" in done.stderr


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A directory of devices, such as /dev/snd: two of the kernel's own, one deeper, and what is no device."""
    directory = tmp_path / "snd"
    (directory / "by-path").mkdir(parents=True)
    os.mknod(directory / "loop-control", 0o20644, os.makedev(10, 237))
    os.mknod(directory / "by-path/zero", 0o20666, os.makedev(1, 5))
    (directory / "link").symlink_to("loop-control")
    (directory / "file").touch()
    return directory


@pytest.mark.parametrize("userns", ["host", "auto"])
def test_a_directory_of_devices_gives_all_that_are_in_it(pe: Pe, sound: Path, userns: str) -> None:
    script = "cd /dev/snd; find . ! -type d | sort; exec 3< loop-control && echo read; exec 4> loop-control"
    done = pe(*RUN, "--userns", userns, "--device", f"{sound}:/dev/snd:r", "host:base", "sh", "-c", script)
    assert done.stdout == "./by-path/zero\n./loop-control\nread\n"
    assert "not permitted" in done.stderr or "Permission denied" in done.stderr


def test_a_directory_without_a_device_is_refused(pe: Pe, tmp_path: Path) -> None:
    done = pe(*RUN, "--device", f"{tmp_path}:/dev/snd", "host:base", "true")
    assert done.returncode == 125
    assert f"--device {tmp_path}: no device is in this directory" in done.stderr


def test_a_device_rule_allows_nodes_made_inside(pe: Pe) -> None:
    script = "mknod /n c 10 237 && exec 3< /n && echo open"
    assert pe(*RUN, "host:base", "sh", "-c", script).returncode != 0
    done = pe(*RUN, "--device-cgroup-rule", "c 10:237 r", "host:base", "sh", "-c", script, check=True)
    assert done.stdout == "open\n"


def test_a_device_that_is_not_there_is_named(pe: Pe) -> None:
    done = pe(*RUN, "--device", "/dev/nosuch", "host:base", "true")
    assert done.returncode == 125
    assert "/dev/nosuch" in done.stderr


# --- /proc and /sys ----------------------------------------------------------------------------------------


def test_secrets_of_the_kernel_are_masked(pe: Pe) -> None:
    script = """
for file in acpi asound interrupts kcore keys latency_stats sched_debug scsi timer_list timer_stats; do
  path=/proc/$file; test -e $path || continue
  if test -d $path; then ls -A $path; else head -c 10 $path; fi
done; ls -A /sys/firmware"""
    assert pe(*RUN, "host:base", "sh", "-c", script, check=True).stdout == ""


def test_switches_of_the_kernel_are_read_only(pe: Pe) -> None:
    script = """
for path in /proc/sys/kernel/panic /proc/sysrq-trigger /proc/irq/default_smp_affinity /proc/bus/x /proc/fs/x \
  /sys/power/state /sys/fs/cgroup/x /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/*/release_agent; do
  ( : >> $path ) 2>/dev/null && echo $path
done; true"""
    assert pe(*RUN, "host:base", "sh", "-c", script, check=True).stdout == ""


def test_system_paths_can_be_left_open(pe: Pe) -> None:
    flags = ("--security-opt", "systempaths=unconfined")
    done = pe(
        *RUN, *flags, "host:base", "sh", "-c", "test -w /proc/sys/kernel/panic && wc -l < /proc/interrupts", check=True
    )
    assert int(done.stdout) > 1


def test_other_processes_of_the_host_are_not_seen(pe: Pe) -> None:
    assert pe(*RUN, "host:base", "sh", "-c", "ls -d /proc/[0-9]* | wc -l", check=True).stdout in ("2\n", "3\n")


def test_the_roots_of_the_engine_are_closed_to_other_users(pe: Pe, start: Start) -> None:
    """CVE-2021-41103: set-id programs in a container's files must not be reachable by users of the host."""
    start(*NONE, "host:base", "sleep", "1000")
    assert stat.S_IMODE(pe.root.stat().st_mode) in (0o700, 0o711)
    assert stat.S_IMODE(pe.run_root.stat().st_mode) == 0o700
    for directory in ("containers", "layers", "volumes"):
        if (pe.root / directory).exists():
            assert not (pe.root / directory).stat().st_mode & 0o077, directory


def test_sockets_of_the_engine_are_paths_for_root_only(pe: Pe, start: Start) -> None:
    """CVE-2020-15257: an abstract socket is reachable from every container in the host's network."""
    start("--net", "host", "host:base", "sleep", "1000")
    sockets = [path for path in pe.run_root.rglob("*") if path.is_socket()]
    assert sockets
    assert all(not path.stat().st_mode & 0o077 for path in sockets)
    abstract = re.findall(r"@\S*", Path("/proc/net/unix").read_text())
    assert not [name for name in abstract if "pe" in name or "plugengine" in name]


# --- attacks with a name -----------------------------------------------------------------------------------


def test_cve_2019_5736_the_engine_cannot_be_reached_by_exec_of_its_own_binary(pe: Pe, start: Start) -> None:
    script = "#!/proc/self/exe\n"
    name = start(*NONE, "host:base", "sleep", "1000")
    pe("exec", "-i", name, "sh", "-c", "cat > /trap; chmod 755 /trap", input=script, check=True)
    for words in (("/proc/self/exe",), ("/trap",)):
        done = pe("exec", name, *words, timeout=PATIENCE_S)
        assert done.returncode in (125, 126, 127), words
    interpreter = os.path.realpath("/proc/self/exe")
    before = os.stat(interpreter)
    loop = "while :; do for p in /proc/[0-9]*; do ( : > $p/exe ) 2>/dev/null && echo opened $p; done; done"
    pe("exec", "-d", name, "sh", "-c", loop, check=True)
    for _ in range(10):
        pe("exec", name, "true")
    after = os.stat(interpreter)
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_cve_2016_9962_joining_processes_cannot_be_traced(pe: Pe, start: Start) -> None:
    name = start(*NONE, "--cap-add", "SYS_PTRACE", "host:base", "sleep", "1000")
    watch = "while :; do for p in /proc/[0-9]*; do ls -l $p/fd 2>/dev/null | grep -e plugengine -e pe-test; done; done"
    watcher = pe.popen("exec", name, "timeout", "2", "sh", "-c", watch, stdout=subprocess.PIPE)
    for _ in range(10):
        pe("exec", name, "true")
    assert watcher.communicate(timeout=PATIENCE_S)[0] == ""


@pytest.mark.parametrize("number", range(3, 12))
def test_cve_2024_21626_a_working_directory_by_descriptor_stays_inside(pe: Pe, number: int) -> None:
    done = pe(
        *RUN, "-w", f"/proc/self/fd/{number}", "host:base", "sh", "-c", "pwd -P; ls ../../../../..", timeout=PATIENCE_S
    )
    assert done.returncode in (125, 126, 127), done.stdout


def test_cve_2024_21626_exec_has_the_same_protection(pe: Pe, box: str) -> None:
    for number in range(3, 12):
        assert pe("exec", "-w", f"/proc/self/fd/{number}", box, "pwd").returncode != 0
    assert pe("exec", box, "ln", "-sfn", "/proc/self/fd/8", "/link").returncode == 0
    assert pe("exec", "-w", "/link", box, "pwd").returncode != 0


@pytest.mark.parametrize(
    "trap",
    [
        "ln -s /proc/1/root/etc/shadow /etc/passwd",
        "ln -s /dev/zero /etc/passwd",
        "mkfifo /etc/passwd",
        "mkdir /etc/passwd",
    ],
    ids=["link out", "endless file", "pipe", "directory"],
)
def test_cve_2024_9676_accounts_that_are_no_file_are_not_waited_for(pe: Pe, start: Start, trap: str) -> None:
    name = start(*NONE, "host:base", "sh", "-c", f"rm /etc/passwd; {trap}; echo set; exec sleep 1000")
    eventually(lambda: pe("logs", name).stdout == "set\n")
    done = pe("exec", "-u", "nobody", name, "true", timeout=PATIENCE_S)
    assert done.returncode == 125
    assert "nobody" in done.stderr or "/etc/passwd" in done.stderr


class Watcher(threading.Thread):
    """Looks at the processes a container sees, as fast as it can; keeps what was unfiltered or had CAP_SYS_ADMIN."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._proc = f"/proc/{pid}/root/proc"
        self.ended = threading.Event()
        self.looks = 0
        self.unsafe: list[str] = []

    def run(self) -> None:
        while not self.ended.is_set():
            for number in filter(str.isdigit, os.listdir(self._proc)):
                try:
                    text = Path(self._proc, number, "status").read_text()
                except OSError:
                    continue
                self.looks += 1
                fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
                if fields["Seccomp"] != "2" or int(fields["CapPrm"], 16) & 1 << SYS_ADMIN:
                    self.unsafe.append(f"{fields['Name']}: Seccomp {fields['Seccomp']}, CapPrm {fields['CapPrm']}")


@pytest.mark.parametrize("words", [("-u", "0"), ("-u", "65534"), ("-t",)], ids=["root", "user", "terminal"])
def test_what_a_tracing_container_sees_of_exec_is_filtered_already(
    pe: Pe, start: Start, words: tuple[str, ...]
) -> None:
    """With SYS_PTRACE it can take over whatever enters its pid namespace, from the first instant on."""
    name = start(*NONE, "--cap-add", "SYS_PTRACE", "host:base", "sleep", "1000")
    watcher = Watcher(int(pe("inspect", "--format", "{{.State.Pid}}", name, check=True).stdout))
    watcher.start()
    try:
        for _ in range(8):
            done = pe("exec", *words, name, "grep", "Cap\\|Seccomp:", "/proc/self/status", check=True)
            assert "Seccomp:\t2" in done.stdout
    finally:
        watcher.ended.set()
        watcher.join()
    assert watcher.looks > 100
    assert watcher.unsafe == []


def test_who_joins_the_processes_of_a_tracing_container_is_warned(pe: Pe, start: Start) -> None:
    tracing = start(*NONE, "--cap-add", "SYS_PTRACE", "host:base", "sleep", "1000")
    usual = start(*NONE, "host:base", "sleep", "1000")
    mapped = start(*NONE, "--cap-add", "SYS_PTRACE", "--userns", "auto", "host:base", "sleep", "1000")
    warned = pe(*RUN, "--pid", f"container:{tracing}", "host:base", "true", check=True)
    assert "has SYS_PTRACE and no user namespace of its own" in warned.stderr
    for other in (usual, mapped):
        assert pe(*RUN, "--pid", f"container:{other}", "host:base", "true", check=True).stderr == ""


def test_accounts_are_those_of_the_root_filesystem_not_of_what_is_mounted_in_it(pe: Pe, start: Start) -> None:
    """A container could link them to files of its procfs, which the engine would read as the host's root."""
    script = "echo intruder:x:7:7::/: >/t/passwd; ln -sf /t/passwd /etc/passwd; echo set; exec sleep 1000"
    name = start(*NONE, "--tmpfs", "/t", "host:base", "sh", "-c", script)
    eventually(lambda: pe("logs", name).stdout == "set\n")
    done = pe("exec", "-u", "intruder", name, "true")
    assert done.returncode == 125
    assert "no such name in the image's /etc/passwd" in done.stderr
    assert pe("exec", "-u", "7", name, "true").returncode == 0


def test_cve_2021_30465_a_mount_point_that_is_a_link_stays_inside(pe: Pe, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").touch()
    pe(
        "create",
        *NONE,
        "--name",
        "linked",
        "-v",
        f"{tmp_path}/source:/trap/deep",
        "host:base",
        "ls",
        "/inside/deep",
        check=True,
    )
    try:
        # The container itself puts the link there, in a start before: the mount comes at the second start.
        pe(*RUN, "host:base", "true", check=True)
        assert pe("start", "-a", "linked").returncode != 0
    finally:
        pe("rm", "linked", check=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    script = f"rm -rf /trap; ln -s {'../' * 20}{outside} /trap; test -e /second && ls /trap; touch /second"
    pe(
        "create",
        *NONE,
        "--name",
        "linked",
        "-v",
        f"{tmp_path}/source:/trap/deep",
        "host:base",
        "sh",
        "-c",
        script,
        check=True,
    )
    try:
        for _ in range(2):
            pe("start", "-a", "linked")
        assert not list(outside.iterdir()), "made inside of the container, not on the host"
    finally:
        pe("rm", "linked", check=True)


@pytest.mark.parametrize("target", ["/proc", "/proc/self", "/proc/sys", "/proc/acpi"])
def test_cve_2019_19921_nothing_is_mounted_over_procfs(pe: Pe, tmp_path: Path, target: str) -> None:
    done = pe(*RUN, "-v", f"{tmp_path}:{target}", "host:base", "true")
    assert done.returncode == 125
    assert target in done.stderr


def test_cve_2020_14370_variables_of_one_container_do_not_reach_the_next(pe: Pe) -> None:
    pe(*RUN, "-e", "SECRET=one", "host:base", "true", check=True)
    assert "SECRET" not in pe(*RUN, "host:base", "env", check=True).stdout


def test_cve_2022_1227_top_runs_nothing_of_the_container(pe: Pe, start: Start) -> None:
    name = start(*NONE, "host:base", "sleep", "1000")
    script = (
        "cp /usr/bin/true /usr/bin/ps.real; printf '#!/bin/sh\\ntouch /was-run\\n' > /usr/bin/ps; chmod 755 /usr/bin/ps"
    )
    pe("exec", name, "sh", "-c", script, check=True)
    assert "sleep 1000" in pe("top", name, check=True).stdout
    assert pe("exec", name, "test", "-e", "/was-run").returncode == 1


def test_cve_2022_0492_no_control_group_can_be_mounted_or_written(pe: Pe) -> None:
    script = (
        "mkdir /cg; mount -t cgroup -o memory x /cg && echo mounted; mkdir /sys/fs/cgroup/memory/x && echo made; true"
    )
    assert pe(*RUN, "--cap-add", "SYS_ADMIN", "host:base", "sh", "-c", script).stdout in ("", "mounted\n")
    assert pe(*RUN, "host:base", "sh", "-c", script).stdout == ""


def test_the_hosts_files_are_not_reachable_by_climbing(pe: Pe, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    script = f"cd /; cd ../../../../..; ls {tmp_path} /proc/1/root{tmp_path} /proc/1/cwd{tmp_path} 2>/dev/null"
    assert pe(*RUN, "host:base", "sh", "-c", script).stdout == ""

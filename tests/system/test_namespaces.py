"""Namespaces and the identity of a container: its own, the host's, or another container's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system.conftest import Start, eventually

NONE = ("--net", "none")
RUN = ("run", "--rm", *NONE)
KINDS = ("pid", "net", "mnt", "uts", "ipc", "cgroup")


def namespace(pe: Pe, name: str, kind: str) -> str:
    """Return the identity of a running container's namespace."""
    pid = json.loads(pe("inspect", name, check=True).stdout)[0]["State"]["Pid"]
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def test_every_namespace_is_the_containers_own_by_default(pe: Pe, start: Start) -> None:
    one, two = (start(*NONE, "host:base", "sleep", "1000") for _ in range(2))
    for kind in KINDS:
        assert len({namespace(pe, one, kind), namespace(pe, two, kind), os.readlink(f"/proc/self/ns/{kind}")}) == 3, (
            kind
        )
    assert namespace(pe, one, "user") == os.readlink("/proc/self/ns/user"), "only with --userns"


def test_the_clock_since_boot_is_moved_by_an_option_of_the_namespace_driver(pe: Pe) -> None:
    with open("/proc/uptime") as stream:
        outside = float(stream.read().split()[0])
    moved = ("--namespace-opt", "time_offset=boottime=1000000")
    inside = float(pe(*RUN, *moved, "host:base", "cat", "/proc/uptime", check=True).stdout.split()[0])
    assert 1_000_000 <= inside - outside < 1_000_600


@pytest.mark.parametrize("kind", ["cgroup", "namespace"])
def test_an_option_the_driver_does_not_have_is_refused_by_name(pe: Pe, kind: str) -> None:
    done = pe(*RUN, f"--{kind}-opt", "colour=red", "host:base", "true")
    assert done.returncode == 125
    assert f"pe: {kind} driver " in done.stderr
    assert "no option colour" in done.stderr


@pytest.mark.parametrize("kind", ["pid", "ipc", "uts", "net"])
def test_a_namespace_of_the_host_can_be_kept(pe: Pe, kind: str) -> None:
    flags = () if kind == "net" else NONE
    done = pe("run", "--rm", *flags, f"--{kind}", "host", "host:base", "readlink", f"/proc/self/ns/{kind}", check=True)
    assert done.stdout.strip() == os.readlink(f"/proc/self/ns/{kind}")


@pytest.mark.parametrize("kind", ["pid", "ipc", "uts", "net"])
def test_a_namespace_of_another_container_can_be_joined(pe: Pe, start: Start, kind: str) -> None:
    start("--name", "owner", *NONE, "host:base", "sleep", "1000")
    flags = () if kind == "net" else NONE
    joined = start(*flags, f"--{kind}", "container:owner", "host:base", "sleep", "1000")
    for each in KINDS:
        assert (namespace(pe, joined, each) == namespace(pe, "owner", each)) is (each == kind), each


@pytest.mark.parametrize("kind", ["pid", "ipc", "uts", "net"])
def test_a_namespace_of_nobody_cannot_be_joined(pe: Pe, start: Start, kind: str) -> None:
    gone = start("--name", "gone", *NONE, "host:base", "true")
    pe("wait", gone, check=True)
    flags = () if kind == "net" else NONE
    for name in ("gone", "nosuch"):
        done = pe("run", "--rm", *flags, f"--{kind}", f"container:{name}", "host:base", "true")
        assert done.returncode == 125
        assert name in done.stderr


def test_processes_of_a_joined_pid_namespace_see_each_other(pe: Pe, start: Start) -> None:
    start("--name", "owner", *NONE, "host:base", "sleep", "987")
    done = pe(*RUN, "--pid", "container:owner", "host:base", "ps", "ax", "-o", "args", check=True)
    assert "sleep 987" in done.stdout


def test_shared_memory_is_shared_with_the_ipc_namespace(pe: Pe, start: Start) -> None:
    start("--name", "owner", *NONE, "host:base", "sleep", "1000")
    pe("exec", "owner", "sh", "-c", "echo shared > /dev/shm/file", check=True)
    assert pe(*RUN, "--ipc", "container:owner", "host:base", "cat", "/dev/shm/file", check=True).stdout == "shared\n"
    assert pe(*RUN, "host:base", "cat", "/dev/shm/file").returncode != 0


def test_a_container_in_the_hosts_pid_namespace_ends_with_all_its_processes(pe: Pe) -> None:
    pe(*RUN, "--pid", "host", "host:base", "sh", "-c", "sleep 876 & echo started", check=True)
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if _read(path) == b"sleep\x00876\x00"], (
        "nothing outlives the container"
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# --- names -------------------------------------------------------------------------------------------------


def test_the_hostname_is_the_short_id_or_the_one_given(pe: Pe, start: Start) -> None:
    name = start(*NONE, "host:base", "sleep", "1000")
    assert pe("exec", name, "hostname", check=True).stdout.strip() == name[:12]
    script = "hostname; cat /etc/hostname; echo $HOSTNAME"
    assert pe(*RUN, "-h", "box", "host:base", "sh", "-c", script, check=True).stdout == "box\nbox\nbox\n"
    hosts = pe("run", "--rm", "-h", "box", "host:base", "cat", "/etc/hosts", check=True).stdout
    assert [line.split()[1] for line in hosts.splitlines() if line.startswith("10.")] == ["box"]


def test_the_domain_name_is_set(pe: Pe) -> None:
    words = ("cat", "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname")
    done = pe(*RUN, "-h", "box", "--domainname", "example.org", "host:base", *words, check=True)
    assert done.stdout == "box.example.org\nexample.org\n"


def test_the_hosts_name_survives(pe: Pe) -> None:
    before = os.uname().nodename
    pe(*RUN, "--cap-add", "SYS_ADMIN", "host:base", "hostname", "other", check=True)
    assert os.uname().nodename == before


def test_name_servers_and_hosts_are_written(pe: Pe) -> None:
    flags = ("--dns", "192.0.2.1", "--dns", "192.0.2.2", "--dns-search", "example.org", "--dns-option", "ndots:2")
    done = pe(
        "run",
        "--rm",
        *flags,
        "--add-host",
        "db:192.0.2.9",
        "host:base",
        "cat",
        "/etc/resolv.conf",
        "/etc/hosts",
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("nameserver")] == ["nameserver 192.0.2.1", "nameserver 192.0.2.2"]
    assert "search example.org" in lines
    assert "options ndots:2" in lines
    assert ["192.0.2.9", "db"] in [line.split() for line in lines]
    assert ["127.0.0.1", "localhost"] in [line.split()[:2] for line in lines]


# --- environment, directory, entry point -------------------------------------------------------------------


def test_variables_come_from_the_line_the_caller_and_files(pe: Pe, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("FILE=from file\nBOTH=file\n# NO=1\nCALLER\n")
    flags = ("--env-file", str(tmp_path / "env"), "-e", "BOTH=line", "-e", "EMPTY=", "-e", "INHERITED", "-e", "MISSING")
    line = pe.command(*RUN, *flags, "host:base", "env")
    environ = {**pe.environ, "INHERITED": "caller's", "CALLER": "too", "OTHER": "stays outside"}
    done = subprocess.run(line, env=environ, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    wanted = {"FILE": "from file", "BOTH": "line", "EMPTY": "", "INHERITED": "caller's", "CALLER": "too"}
    assert {name: found.get(name) for name in wanted} == wanted
    assert not {"MISSING", "OTHER", "NO"} & set(found)
    assert {"PATH", "HOSTNAME", "HOME"} <= set(found)


def test_the_working_directory_is_made_when_it_is_missing(pe: Pe) -> None:
    done = pe(*RUN, "-w", "/some/where/new", "host:base", "sh", "-c", "pwd; stat -c %u:%a .", check=True)
    assert done.stdout == "/some/where/new\n0:755\n"


@pytest.mark.parametrize(
    ("flags", "words", "answer"),
    [
        (("--entrypoint", "echo"), ("one", "two"), "one two\n"),
        (("--entrypoint", "/usr/bin/printf"), ("%s-", "a", "b"), "a-b-"),
        (("--entrypoint", ""), ("echo", "plain"), "plain\n"),
    ],
    ids=["name", "path", "none"],
)
def test_the_entry_point_can_be_replaced(pe: Pe, flags: tuple[str, ...], words: tuple[str, ...], answer: str) -> None:
    assert pe(*RUN, *flags, "host:base", *words, check=True).stdout == answer


def test_arguments_arrive_as_they_are(pe: Pe) -> None:
    words = ("a b", "", "*", "$HOME", "é\t\n", "--rm", "-x")
    done = pe(*RUN, "host:base", "printf", "<%s>", *words, check=True)
    assert done.stdout == "".join(f"<{word}>" for word in words)


# --- init --------------------------------------------------------------------------------------------------


def test_init_reaps_the_zombies_of_others(pe: Pe, start: Start) -> None:
    orphans = "for i in 1 2 3 4 5; do (sleep 0.1 & ); done; sleep 1000"
    name = start(*NONE, "--init", "host:base", "sh", "-c", orphans)
    eventually(lambda: pe("top", name, check=True).stdout.count("sleep 1000") == 2)  # the others were made before
    eventually(lambda: len(pe("top", name, check=True).stdout.splitlines()) == 4)  # heading, init, sh, sleep
    assert "defunct" not in pe("exec", name, "ps", "ax", check=True).stdout
    without = start(*NONE, "host:base", "sh", "-c", orphans.replace("sleep 1000", "exec sleep 1000"))
    # So the test tells.
    eventually(lambda: pe("exec", without, "ps", "ax", "-o", "stat", check=True).stdout.count("Z") == 5)


def test_init_forwards_signals_and_passes_the_exit_code_on(pe: Pe, start: Start) -> None:
    script = "trap 'echo caught; exit 7' TERM; echo up; while :; do sleep 0.05; done"
    name = start(*NONE, "--init", "host:base", "sh", "-c", script)
    eventually(lambda: pe("logs", name).stdout == "up\n")
    pe("stop", name, check=True)
    assert pe("logs", name, check=True).stdout == "up\ncaught\n"
    assert pe("wait", name, check=True).stdout == "7\n"


def test_with_init_an_unprepared_command_ends_at_once(pe: Pe, start: Start) -> None:
    name = start(*NONE, "--init", "host:base", "sleep", "1000")
    pe("stop", "-t", "1000", name, check=True)  # SIGTERM works on whoever is not the first process
    assert pe("wait", name, check=True).stdout == f"{128 + signal.SIGTERM}\n"


# --- kernel parameters -------------------------------------------------------------------------------------


def test_kernel_parameters_of_the_container_are_set(pe: Pe) -> None:
    flags = ("--sysctl", "net.ipv4.ip_unprivileged_port_start=77", "--sysctl", "kernel.msgmax=9999")
    before = Path("/proc/sys/kernel/msgmax").read_text()
    words = ("cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/kernel/msgmax")
    assert pe(*RUN, *flags, "host:base", *words, check=True).stdout == "77\n9999\n"
    assert Path("/proc/sys/kernel/msgmax").read_text() == before


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ((*NONE, "--sysctl", "kernel.panic=7"), "kernel.panic"),
        (("--net", "host", "--sysctl", "net.ipv4.ip_forward=0"), "net.ipv4.ip_forward"),
        ((*NONE, "--ipc", "host", "--sysctl", "kernel.msgmax=9999"), "kernel.msgmax"),
        ((*NONE, "--sysctl", "net/../kernel/panic=7"), "panic"),
    ],
    ids=["the host's", "of the host's network", "of the host's ipc", "by a detour"],
)
def test_kernel_parameters_of_the_host_are_refused(pe: Pe, flags: tuple[str, ...], name: str) -> None:
    done = pe("run", "--rm", *flags, "host:base", "true")
    assert done.returncode == 125
    assert name in done.stderr


def test_who_joins_a_network_shares_its_names_too(pe: Pe, start: Start) -> None:
    start("--name", "owner", "-h", "shared", "--add-host", "db:10.1.2.3", "host:base", "sleep", "1000")
    files = ("host:base", "sh", "-c", "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf")
    inside = pe("exec", "owner", *files[1:], check=True).stdout
    joined = pe("run", "--rm", "--net", "container:owner", *files, check=True).stdout
    assert joined == inside

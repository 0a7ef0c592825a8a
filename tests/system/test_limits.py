"""Limits, proved from inside the container and from its control group's counters."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pe, need, need_tool
from tests.system.conftest import Start, eventually
from tests.waiting import PATIENCE_S, settled

NONE = ("--net", "none")
RUN = ("run", "--rm", *NONE)


def inspect(pe: Pe, name: str) -> dict[str, Any]:
    """Return a container's description."""
    found: dict[str, Any] = json.loads(pe("inspect", name, check=True).stdout)[0]
    return found


# --- memory ------------------------------------------------------------------------------------------------


def test_a_memory_hog_is_killed_at_its_limit_and_the_caller_is_told(pe: Pe) -> None:
    done = pe("run", *NONE, "--name", "hog", "-m", "32m", "host:base", "tail", "/dev/zero")
    try:
        assert done.returncode == 137
        assert "hog: out of memory" in done.stderr
        assert "32MiB" in done.stderr
        state = inspect(pe, "hog")["State"]
        assert (state["OOMKilled"], state["ExitCode"], state["Status"]) == (True, 137, "exited")
    finally:
        pe("rm", "hog", check=True)


def test_a_detached_container_that_ran_out_of_memory_says_so_later(pe: Pe, start: Start) -> None:
    name = start(*NONE, "-m", "32m", "host:base", "tail", "/dev/zero")
    assert pe("wait", name, check=True).stdout == "137\n"
    assert inspect(pe, name)["State"]["OOMKilled"] is True


def test_what_stays_below_the_limit_lives(pe: Pe) -> None:
    script = "head -c 20m /dev/zero | tail -c 20m | wc -c"
    assert pe(*RUN, "-m", "64m", "host:base", "sh", "-c", script, check=True).stdout == f"{20 << 20}\n"


def test_a_container_whose_child_ran_out_of_memory_ends_as_it_likes(pe: Pe) -> None:
    done = pe(*RUN, "-m", "32m", "host:base", "sh", "-c", "tail /dev/zero; echo child $?; exit 0")
    assert done.stdout == "child 137\n"
    assert done.returncode == 0
    assert "out of memory: a process of it was killed at its limit of 32MiB" in done.stderr


def test_memory_limits_are_seen_inside(pe: Pe) -> None:
    files = "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max"
    done = pe(*RUN, "-m", "100m", "host:base", "sh", "-c", f"cat {files} 2>/dev/null")
    assert done.stdout == f"{100 << 20}\n"


def test_memory_and_swap_together_are_limited_or_the_host_is_blamed(pe: Pe) -> None:
    files = "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes /sys/fs/cgroup/memory.swap.max"
    done = pe(*RUN, "-m", "64m", "--memory-swap", "96m", "host:base", "sh", "-c", f"cat {files} 2>/dev/null")
    told = "--memory-swap" in done.stderr
    assert told or done.stdout in (f"{96 << 20}\n", f"{32 << 20}\n")


@pytest.mark.parametrize(
    ("flags", "files", "value"),
    [
        (("--memory-reservation", "20m"), "memory/memory.soft_limit_in_bytes memory.low", str(20 << 20)),
        (("--cpu-period", "50000", "--cpu-quota", "20000"), "cpu/cpu.cfs_quota_us cpu.max", "20000"),
        (("--cpus", "1.5"), "cpu/cpu.cfs_quota_us cpu.max", "150000"),
        (("--cpuset-mems", "0"), "cpuset/cpuset.mems cpuset.mems", "0"),
        (("--pids-limit", "33"), "pids/pids.max pids.max", "33"),
    ],
    ids=["reservation", "quota", "cpus", "memory nodes", "pids"],
)
def test_a_limit_is_what_the_kernel_was_told(pe: Pe, flags: tuple[str, ...], files: str, value: str) -> None:
    done = pe(*RUN, *flags, "host:base", "sh", "-c", f"cd /sys/fs/cgroup; cat {files} 2>/dev/null")
    assert done.stdout.split()[0] == value
    assert done.stderr == ""


def test_groups_lie_below_the_parent_given(pe: Pe, start: Start) -> None:
    description = inspect(pe, start(*NONE, "--cgroup-parent", "plugengine-test/web", "host:base", "sleep", "1000"))
    pid = description["State"]["Pid"]
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    assert any(line.endswith(f"/plugengine-test/web/{description['Id']}") for line in lines)


# --- processors --------------------------------------------------------------------------------------------


def test_two_busy_loops_get_half_a_processor(pe: Pe, start: Start) -> None:
    name = start(*NONE, "--cpus", "0.5", "host:base", "sh", "-c", "while :; do :; done & while :; do :; done")
    usage = _cpu_usage_ns(inspect(pe, name))
    time.sleep(0.5)  # the first period may be a fresh one
    before, began = usage(), time.monotonic()
    time.sleep(2.0)
    share = (usage() - before) / 1e9 / (time.monotonic() - began)
    assert 0.02 < share < 0.6, "no more than that; less when others want the processors too"


def _cpu_usage_ns(description: dict[str, Any]) -> Any:
    groups = description["DriverRecords"]["cgroup"]["groups"]
    if "cpuacct" in groups:
        path = Path(groups["cpuacct"]) / "cpuacct.usage"
        return lambda: int(path.read_text())
    path = Path(next(iter(groups.values()))) / "cpu.stat"
    return lambda: 1000 * int(re.findall(r"usage_usec (\d+)", path.read_text())[0])


def test_a_container_stays_on_its_processors(pe: Pe) -> None:
    script = "grep Cpus_allowed_list /proc/self/status; nproc"
    done = pe(*RUN, "--cpuset-cpus", "0", "host:base", "sh", "-c", script, check=True)
    assert done.stdout == "Cpus_allowed_list:\t0\n1\n"


def test_shares_decide_who_gets_a_contended_processor(pe: Pe, start: Start) -> None:
    loop = ("host:base", "sh", "-c", "while :; do :; done")
    small = start(*NONE, "--cpuset-cpus", "0", "--cpu-shares", "256", *loop)
    large = start(*NONE, "--cpuset-cpus", "0", "--cpu-shares", "2048", *loop)
    usages = [_cpu_usage_ns(inspect(pe, name)) for name in (small, large)]
    before = [usage() for usage in usages]
    few, many = settled(
        lambda: [usage() - start for usage, start in zip(usages, before, strict=True)], lambda used: sum(used) > 1.5e9
    )
    assert many > 2 * few, (few, many)


# --- processes ---------------------------------------------------------------------------------------------


def test_a_fork_bomb_stops_at_the_limit_and_the_host_goes_on(pe: Pe, start: Start) -> None:
    bomb = "b() { b | b & }; b; sleep 1000"
    name = start(*NONE, "--pids-limit", "40", "--cpus", "0.5", "host:base", "bash", "-c", bomb)
    eventually(lambda: int(_stats(pe, name)["PIDs"]) > 30)
    assert int(_stats(pe, name)["PIDs"]) <= 40
    subprocess.run(["true"], check=True, timeout=PATIENCE_S)
    pe("rm", "-f", name, check=True)


def _stats(pe: Pe, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pe("stats", "--no-stream", "--format", "json", name, check=True).stdout)
    return found


def test_the_process_limit_is_met_exactly(pe: Pe) -> None:
    script = "i=1; while :; do sleep 5 & i=$((i+1)); echo $i; done"  # dash ends when it cannot fork
    done = pe(*RUN, "--pids-limit", "6", "host:base", "dash", "-c", script)
    assert done.stdout == "2\n3\n4\n5\n6\n"
    assert "fork" in done.stderr


# --- block devices -----------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A small ext4 on a loop device: its block device and where it is mounted."""
    need_tool("mkfs.ext4")
    image, place = tmp_path / "disk", tmp_path / "mounted"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    made = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=False)
    need(None if made.returncode == 0 else f"needs a loop device: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        subprocess.run(["mount", device, str(place)], check=True)
        try:
            yield device, place
        finally:
            subprocess.run(["umount", str(place)], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_the_write_rate_of_a_device_is_held(pe: Pe, disk: tuple[str, Path]) -> None:
    device, place = disk
    write = "dd if=/dev/zero of=/disk/file bs=1M count=4 oflag=direct 2>&1 | tail -1"
    flags = ("-v", f"{place}:/disk", "--device-write-bps", f"{device}:2m")
    began = time.monotonic()
    done = pe(*RUN, *flags, "host:base", "sh", "-c", write, check=True)
    need("the host's kernel has no blk-throttle" if "--device-write-bps" in done.stderr else None)
    assert time.monotonic() - began > 1.2, "4 MiB at 2 MiB a second"


def test_the_read_operations_of_a_device_are_held(pe: Pe, disk: tuple[str, Path]) -> None:
    device, place = disk
    (place / "file").write_bytes(b"x" * (1 << 20))
    os.sync()
    read = "dd if=/disk/file of=/dev/null bs=4k count=30 iflag=direct"
    began = time.monotonic()
    done = pe(
        *RUN, "-v", f"{place}:/disk", "--device-read-iops", f"{device}:20", "host:base", *read.split(), check=True
    )
    need("the host's kernel has no blk-throttle" if "--device-read-iops" in done.stderr else None)
    assert time.monotonic() - began > 0.9


def test_a_rate_for_what_is_no_block_device_is_refused(pe: Pe) -> None:
    done = pe(*RUN, "--device-write-bps", "/dev/null:1m", "host:base", "true")
    assert done.returncode != 0
    assert "/dev/null" in done.stderr


# --- what the host cannot hold -----------------------------------------------------------------------------


def test_a_limit_is_held_or_named_in_a_warning(pe: Pe) -> None:
    done = pe(
        *RUN,
        "--blkio-weight",
        "300",
        "host:base",
        "sh",
        "-c",
        "cat /sys/fs/cgroup/blkio/blkio.bfq.weight /sys/fs/cgroup/io.bfq.weight 2>/dev/null; true",
    )
    assert done.returncode == 0
    assert "300" in done.stdout or "--blkio-weight" in done.stderr


def test_warnings_of_a_detached_start_are_shown_and_kept(pe: Pe, start: Start) -> None:
    done = pe("run", "-d", *NONE, "--name", "warned", "--blkio-weight", "300", "host:base", "sleep", "1000", check=True)
    try:
        kept = inspect(pe, "warned")["Warnings"]
        assert all(warning in done.stderr for warning in kept)
        assert [line for line in done.stderr.splitlines() if line.startswith("pe: warning: ")] == [
            f"pe: warning: {warning}" for warning in kept
        ]
    finally:
        pe("rm", "-f", "warned", check=True)


# --- limits of the process -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "words", "answer"),
    [
        ("nofile=100:200", "ulimit -Sn; ulimit -Hn", "100\n200\n"),
        ("core=0", "ulimit -c", "0\n"),
        ("nproc=500", "ulimit -u", "500\n"),
        ("fsize=4096", "head -c 5000 /dev/zero > /big; stat -c %s /big", "4096\n"),
    ],
    ids=["nofile", "core", "nproc", "fsize"],
)
def test_ulimits_are_set(pe: Pe, limit: str, words: str, answer: str) -> None:
    assert pe(*RUN, "--ulimit", limit, "host:base", "bash", "-c", words).stdout == answer


def test_the_out_of_memory_preference_is_set(pe: Pe) -> None:
    done = pe(*RUN, "--oom-score-adj", "700", "host:base", "cat", "/proc/self/oom_score_adj", check=True)
    assert done.stdout == "700\n"


@pytest.mark.parametrize("text", ["12x", "-5m", "", "1.2.3m", "1k"])
def test_a_memory_limit_that_is_none_is_refused(pe: Pe, text: str) -> None:
    done = pe(*RUN, "-m", text, "host:base", "true")
    assert done.returncode != 0
    assert "--memory" in done.stderr


def test_inspect_shows_the_limits(pe: Pe, start: Start) -> None:
    flags = ("-m", "64m", "--cpus", "0.5", "--pids-limit", "30", "--cpuset-cpus", "0", "--cpu-shares", "512")
    config = inspect(pe, start(*NONE, *flags, "host:base", "sleep", "1000"))["HostConfig"]
    assert config["Memory"] == 64 << 20
    assert config["CpuQuota"] / config["CpuPeriod"] == 0.5
    assert (config["PidsLimit"], config["CpusetCpus"], config["CpuShares"]) == (30, "0", 512)

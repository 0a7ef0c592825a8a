"""Limits as writes to the files of version 2; the host is a value here, so no group is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from plugengine_cgroup_v2.host import Unified, reasons
from plugengine_cgroup_v2.limits import limits_to_settings

from plugengine.cgroups.filesystem import Hierarchy
from plugengine.errors import UsageError
from plugengine.model import DeviceRate, Limits

CONTROLLERS = frozenset({"cpu", "cpuset", "io", "memory", "pids"})


@pytest.fixture
def machine(tmp_path: Path) -> Unified:
    (tmp_path / "cpuset.cpus.effective").write_text("0-3\n")
    return Unified(str(tmp_path), CONTROLLERS, str(tmp_path))


def writes(limits: Limits, machine: Unified) -> dict[str, str]:
    settings = limits_to_settings(limits, machine)
    assert settings.unsupported == ()
    return {write.file: write.value for write in settings.writes}


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param(Limits(), {}, id="nothing"),
        pytest.param(Limits(memory_bytes=100), {"memory.max": "100", "memory.swap.max": "100"}, id="memory"),
        pytest.param(
            Limits(memory_bytes=100, memory_swap_bytes=100), {"memory.max": "100", "memory.swap.max": "0"}, id="no-swap"
        ),
        pytest.param(
            Limits(memory_bytes=100, memory_swap_bytes=-1),
            {"memory.max": "100", "memory.swap.max": "max"},
            id="endless-swap",
        ),
        pytest.param(
            Limits(memory_bytes=-1, memory_swap_bytes=-1), {"memory.max": "max", "memory.swap.max": "max"}, id="lifted"
        ),
        pytest.param(Limits(memory_reservation_bytes=7), {"memory.low": "7"}, id="reservation"),
        pytest.param(Limits(cpu_quota_us=5000), {"cpu.max": "5000 100000"}, id="quota"),
        pytest.param(Limits(cpu_quota_us=-1, cpu_period_us=50), {"cpu.max": "max 50"}, id="no-quota"),
        pytest.param(Limits(cpu_shares=1024), {"cpu.weight": "100"}, id="shares"),
        pytest.param(Limits(cpuset_cpus="1-2"), {"cpuset.cpus": "1-2"}, id="processors"),
        pytest.param(Limits(pids=3), {"pids.max": "3"}, id="processes"),
        pytest.param(Limits(pids=-1), {"pids.max": "max"}, id="endless-processes"),
    ],
)
def test_a_limit_is_written_to_its_file(limits: Limits, expected: dict[str, str], machine: Unified) -> None:
    assert writes(limits, machine) == expected


def test_the_four_rates_of_a_device_share_a_line(machine: Unified) -> None:
    first, second = DeviceRate(major=8, minor=0, rate=10), DeviceRate(major=8, minor=16, rate=0)
    asked = Limits(read_bps=(first, second), write_bps=(first,), read_iops=(first,), write_iops=(first,))
    found = limits_to_settings(asked, machine)
    assert [write.value for write in found.writes] == ["8:0 rbps=10 wbps=10 riops=10 wiops=10", "8:16 rbps=max"]


def test_a_weight_goes_where_it_is_heeded(machine: Unified) -> None:
    Path(machine.base, "io.cost.qos").write_text("8:0 enable=1 ctrl=auto\n")
    assert writes(Limits(blkio_weight=10), machine) == {"io.weight": "default 1"}
    assert writes(Limits(blkio_weight=1000), machine) == {"io.weight": "default 10000"}


def test_swap_is_left_alone_where_the_kernel_does_not_count_it(machine: Unified, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "memory.max").touch()
    assert writes(Limits(memory_bytes=100), machine) == {"memory.max": "100"}


def test_processors_that_are_not_there_are_refused(machine: Unified) -> None:
    with pytest.raises(UsageError, match="--cpuset-cpus 3-4: 4 not there"):
        limits_to_settings(Limits(cpuset_cpus="3-4"), machine)


def test_limits_without_their_controller_are_named_by_their_flag(tmp_path: Path) -> None:
    rate = (DeviceRate(major=1, minor=1, rate=1),)
    asked = Limits(
        memory_bytes=2, cpu_quota_us=1, cpu_shares=2, cpuset_cpus="0", pids=5, blkio_weight=10, read_bps=rate
    )
    found = limits_to_settings(asked, Unified(str(tmp_path), frozenset(), str(tmp_path)))
    assert found.writes == ()
    assert found.unsupported == (
        "--cpuset-cpus: the unified hierarchy has no cpuset controller",
        "--cpu-shares: the unified hierarchy has no cpu controller",
        "--cpus: the unified hierarchy has no cpu controller",
        "--memory: the unified hierarchy has no memory controller",
        "--pids-limit: the unified hierarchy has no pids controller",
        "--blkio-weight: the unified hierarchy has no io controller",
        "--device-read-bps: the unified hierarchy has no io controller",
    )


def test_the_reasons_say_where_a_missing_controller_is(tmp_path: Path) -> None:
    unified = Unified("/sys/fs/cgroup/unified", frozenset({"cpu"}), "/sys/fs/cgroup/unified")
    mounted = [Hierarchy(1, ("memory",), "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory")]
    assert reasons(unified, mounted) == [
        "cgroup v1 holds the controllers memory: booting with cgroup_no_v1=all frees them for the unified hierarchy at "
        "/sys/fs/cgroup/unified",
        "the unified hierarchy at /sys/fs/cgroup/unified lacks the controllers pids: its parent hands them not down, "
        "or the kernel has none",
    ]

"""`pe bench net`, small: between containers, through published ports, and drivers that need a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugengine.bench.net import NAMES
from tests.conftest import Pe
from tests.system.bench.test_start import TIMEOUT_S, left_in, results

SMALL = ("bench", "net", "--quick", "--rounds", "1", "--warmup", "0")


@pytest.mark.slow
def test_every_line_is_measured_and_what_needs_a_configuration_says_so(pe: Pe, tmp_path: Path) -> None:
    out, work = tmp_path / "out.json", tmp_path / "work"
    work.mkdir()
    done = pe(*SMALL, "--json", str(out), "--directory", str(work), timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(out)
    assert found.kind == "net"
    assert found.failures == ()
    assert {column.name for column in found.columns if not column.reason} == {"bridge", "host", "loopback", "vxlan"}
    for name in NAMES:
        assert found.cell(name, "bridge").values[0] > 0
    assert found.cell("stream", "host").values[0] > 0
    assert found.cell("stream", "loopback").values[0] > 0
    reasons = {column.name: column.reason for column in found.columns if column.reason}
    assert "no address" in reasons["none"]
    assert "macvlan:parent" in reasons["macvlan"]
    assert left_in(work) == []


@pytest.mark.slow
def test_a_driver_with_options_takes_part_on_the_link_of_the_run(pe: Pe, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = ("--drivers", "macvlan", "--option", "macvlan:parent=uplink0", "--workloads", "latency,port-latency")
    done = pe(*SMALL, *words, "--json", str(out), timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(out)
    assert 0 < found.cell("latency", "macvlan").values[0] < 1
    assert found.cell("port-latency", "macvlan").values == ()
    column = next(column for column in found.columns if column.name == "macvlan")
    assert column.options == {"parent": "uplink0"}

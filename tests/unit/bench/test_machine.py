"""The machine of a run: its facts, and a sentence for each disturbance."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from plugengine.bench.machine import Times, Watch, filesystem, noise, parse_times, steal_percent
from plugengine.bench.results import Machine
from tests.unit.bench.test_comparing import MACHINE, around, cell, run


def test_the_facts_of_this_machine_are_there(tmp_path: Path) -> None:
    machine = Watch(str(tmp_path)).machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 1 << 20
    assert machine.cpu
    assert "(" in machine.filesystem
    assert machine.load_before >= 0
    assert 0 <= machine.steal_percent <= 100
    assert machine.directory == str(tmp_path)


def test_the_filesystem_is_that_of_the_deepest_mount() -> None:
    assert filesystem("/proc").startswith("proc (")


def test_steal_is_a_part_of_the_time_that_passed() -> None:
    before = parse_times("cpu  10 0 10 70 0 0 0 10 5 5\ncpu0 …")
    assert before == Times(total=100, steal=10)
    assert steal_percent(before, Times(total=200, steal=15)) == 5.0
    assert steal_percent(before, before) == 0.0


def test_a_kernel_that_knows_no_steal_has_none() -> None:
    assert parse_times("cpu 1 2 3 4") == Times(total=10, steal=0)


@pytest.mark.parametrize(
    ("machine", "word"),
    [
        (replace(MACHINE, load_before=3.0), "busy before the run: load 3.00 on 2"),
        (replace(MACHINE, load_after=9.0), "busy during the run"),
        (replace(MACHINE, steal_percent=1.5), "took 1.5 %"),
        (replace(MACHINE, governor="powersave"), "governor is powersave"),
    ],
)
def test_each_disturbance_has_its_sentence(machine: Machine, word: str) -> None:
    found = noise(replace(run(cell(*around(1.0))), machine=machine))
    assert len(found) == 1
    assert word in found[0]


def test_a_quiet_machine_has_no_warning() -> None:
    quiet = replace(MACHINE, governor="performance", load_before=0.2, load_after=1.1, steal_percent=0.4)
    assert noise(replace(run(cell(*around(1.0))), machine=quiet)) == ()


def test_wide_intervals_are_warned_of() -> None:
    (sentence,) = noise(run(cell(*(1.0, 2.0, 9.0, 1.0, 8.0) * 2)))
    assert "1 of 1 intervals" in sentence


def test_rounds_there_was_no_time_for_are_warned_of() -> None:
    short = run(cell(1.0, 1.0))
    (sentence,) = noise(short)
    assert "2 of 10 rounds" in sentence
    assert noise(replace(short, partial=True)) == (), "that is said otherwise"

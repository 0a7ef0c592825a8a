"""Masked and read-only paths."""

from __future__ import annotations

import os

from plugengine.security import paths


def test_each_processors_thermal_counters_are_masked_where_there_are_any() -> None:
    cpus = "/sys/devices/system/cpu"
    there = {
        f"{cpus}/{name}/thermal_throttle"
        for name in os.listdir(cpus)
        if name[3:].isdigit() and os.path.isdir(f"{cpus}/{name}/thermal_throttle")
    }
    assert set(paths.masked()) == set(paths.MASKED) | there


def test_no_path_is_in_both_lists_or_below_a_masked_one() -> None:
    for path in paths.READ_ONLY:
        assert not any(path == other or path.startswith(f"{other}/") for other in paths.MASKED)

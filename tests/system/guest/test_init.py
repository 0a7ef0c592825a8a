"""The first process of a container, on the real kernel."""

from __future__ import annotations

from tests.system.guest.conftest import Monitor


def test_a_command_runs_and_its_output_and_code_come_back(monitor: Monitor) -> None:
    done = monitor.sh("echo hello; id -u; exit 7")
    assert done.error == ""
    assert done.stdout == "hello\n0\n"
    assert done.code == 7

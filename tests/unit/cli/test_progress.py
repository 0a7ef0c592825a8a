"""A line about steps: how many are done, and how long the rest will take."""

from __future__ import annotations

import io

from plugengine.cli.progress import ProgressLine, StepsLine


def shown(line: StepsLine, output: io.StringIO, done: int, total: int, what: str) -> str:
    output.seek(0)
    output.truncate()
    line.update(done, total, what)
    return output.getvalue()


def test_the_rest_takes_as_long_as_what_was_done_and_the_end_erases_the_line() -> None:
    now = [0.0]
    output = io.StringIO()
    line = StepsLine(output, clock=lambda: now[0])
    assert "0 of 1" in shown(line, output, 0, 1, "making the image")
    now[0] = 100.0
    first = shown(line, output, 0, 10, "walk overlay")
    assert "0 of 10" in first
    assert "left" not in first, "nothing is known yet"
    now[0] = 130.0
    third = shown(line, output, 2, 10, "walk vfs")
    assert "2 of 10, 2 minutes left  walk vfs" in third, "the preparation does not count"
    now[0] = 130.01
    assert shown(line, output, 3, 10, "too soon") == ""
    assert shown(line, output, 10, 10, "") == "\r\x1b[K"


def test_names_cannot_move_the_cursor() -> None:
    output = io.StringIO()
    StepsLine(output, clock=lambda: 0.0).update(0, 2, "evil\x1b[2J\nname")
    assert output.getvalue().count("\x1b") == 1
    assert "\n" not in output.getvalue()


def test_bytes_are_shown_of_all_there_are_and_the_line_is_gone_when_they_are_done() -> None:
    output = io.StringIO()
    line = ProgressLine(output)
    line.update("layer 0123", 5_000_000, 10_000_000)
    assert output.getvalue() == f"\r\x1b[Klayer 0123 [{'=' * 15}{' ' * 15}] 5MB of 10MB"
    line.update("layer 0123", 10_000_000, 10_000_000)
    line.erase()
    assert output.getvalue().count("\r\x1b[K") == 2
    assert output.getvalue().endswith("\r\x1b[K")


def test_work_of_unknown_size_is_erased_when_it_is_told_to_be() -> None:
    output = io.StringIO()
    line = ProgressLine(output)
    line.update("evil\x1b[2J\nname", 5_000_000, None)
    assert output.getvalue().count("\x1b") == 1
    line.erase()
    line.erase()
    assert output.getvalue().endswith("5MB\r\x1b[K")

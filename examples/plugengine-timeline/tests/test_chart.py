"""The chart: which life is drawn, and where the bars are."""

from __future__ import annotations

from plugengine_timeline.chart import Bar, draw, last_life


def step(what: str, begin: int, end: int, undo: str = "false") -> list[dict[str, object]]:
    """Return the two notes of a step."""
    return [
        {"action": "step-begin", "what": what, "undo": undo, "time_ns": begin},
        {"action": "step-end", "what": what, "undo": undo, "time_ns": end},
    ]


def test_only_the_last_start_is_drawn() -> None:
    first = [{"action": "create", "time_ns": 1}, *step("mount", 2, 5), *step("mount", 7, 8, undo="true")]
    second = [*step("mount", 20, 30), {"action": "start", "time_ns": 31}, *step("mount", 40, 44, undo="true")]
    assert last_life([*first, *second]) == [Bar("mount", 20, 30), Bar("* start", 31, 31), Bar("undo: mount", 40, 44)]


def test_a_step_that_never_ended_ends_with_the_notes() -> None:
    notes = [{"action": "step-begin", "what": "mount", "undo": "false", "time_ns": 5}, {"action": "die", "time_ns": 9}]
    assert Bar("mount (did not end)", 5, 9) in last_life(notes)


def test_an_hour_of_idling_does_not_make_the_start_a_dot() -> None:
    hour = 3600 * 10**9
    lines = draw([Bar("up", 0, 10**6), Bar("down", hour, hour + 10**6)], 40)
    assert [line.count("#") for line in lines] == [19, 19]
    assert "1.00 ms" in lines[0]


def test_every_bar_is_inside_the_chart() -> None:
    bars = [Bar(f"step {number}", number, number + 1) for number in range(100)] + [Bar("* now", 100, 100)]
    for line in draw(bars, 20):
        assert len(line) <= 44 + 1 + 11 + 1 + 20

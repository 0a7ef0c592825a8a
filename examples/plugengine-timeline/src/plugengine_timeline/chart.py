"""Turn the notes of one container into a chart of text; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

_NS_PER_MS: Final = 1_000_000
_NAME_WIDTH: Final = 44
_LEAST_BAR: Final = 1
Notes = Iterable[Mapping[str, Any]]


class Bar(NamedTuple):
    """One step, or one moment (`end_ns` equal to `begin_ns`)."""

    name: str
    begin_ns: int
    end_ns: int


def last_life(notes: Notes) -> list[Bar]:
    """Return the bars of the last start and what followed it: from the first step on the way up to the last undone.

    A step that never ended (the process was killed) ends with the last note.
    """
    lives: list[list[Mapping[str, Any]]] = [[]]
    going_down = True
    for note in notes:
        upward = note["action"] == "step-begin" and note.get("undo") == "false"
        if upward and going_down:
            lives.append([])
        going_down = (going_down and not upward) or note.get("undo") == "true"
        lives[-1].append(note)
    return list(_bars(lives[-1]))


def _bars(notes: list[Mapping[str, Any]]) -> Iterator[Bar]:
    open_steps: dict[tuple[str, str], int] = {}
    for note in notes:
        action, time_ns = str(note["action"]), int(note["time_ns"])
        key = (str(note.get("what", "")), str(note.get("undo", "")))
        name = f"undo: {key[0]}" if key[1] == "true" else key[0]
        if action == "step-begin":
            open_steps[key] = time_ns
        elif action == "step-end":
            yield Bar(name, open_steps.pop(key, time_ns), time_ns)
        else:
            yield Bar(f"* {action}", time_ns, time_ns)
    for (what, _undo), begin in open_steps.items():
        yield Bar(f"{what} (did not end)", begin, int(notes[-1]["time_ns"]))


def draw(bars: list[Bar], width: int) -> list[str]:
    """Return a line for each bar, with its milliseconds, in a chart of `width` characters; idle time is cut out.

    A container that ran for an hour would otherwise show its start as one dot: between two bars at most a twentieth of
    the whole is shown.
    """
    bars = sorted(bars, key=lambda bar: bar.begin_ns)
    busy = sum(bar.end_ns - bar.begin_ns for bar in bars) or 1
    moments = sorted({moment for bar in bars for moment in (bar.begin_ns, bar.end_ns)})
    positions, position = {}, 0
    for index, moment in enumerate(moments):
        if index:
            before = moments[index - 1]
            covered = any(bar.begin_ns <= before and moment <= bar.end_ns for bar in bars)
            position += moment - before if covered else min(moment - before, busy // 20)
        positions[moment] = position
    scale = width / (position or 1)
    lines = []
    for bar in bars:
        begin = min(int(positions[bar.begin_ns] * scale), width - _LEAST_BAR)
        length = max(int((positions[bar.end_ns] - positions[bar.begin_ns]) * scale), _LEAST_BAR)
        mark = "|" if bar.begin_ns == bar.end_ns else "#" * min(length, width - begin)
        took = "" if bar.begin_ns == bar.end_ns else f"{(bar.end_ns - bar.begin_ns) / _NS_PER_MS:8.2f} ms"
        name = bar.name if len(bar.name) <= _NAME_WIDTH else bar.name[: _NAME_WIDTH - 1] + "…"
        lines.append(f"{name:{_NAME_WIDTH}} {took:>11} {' ' * begin}{mark}")
    return lines

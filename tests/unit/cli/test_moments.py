from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.cli.parse.errors import FlagError
from plugengine.cli.parse.times import parse_date, parse_moment
from plugengine.quantities import duration_ns
from plugengine.streams.logs import timestamp

SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        pytest.param("10m", NOW - 600 * SECOND, id="minutes ago"),
        pytest.param("1h30m", NOW - 5400 * SECOND, id="two units"),
        pytest.param("500ms", NOW - SECOND // 2, id="milliseconds"),
        pytest.param("1.5h", NOW - 5400 * SECOND, id="a fraction"),
        pytest.param("1136073600", 1136073600 * SECOND, id="Unix time"),
        pytest.param("1136073600.000000007", 1136073600 * SECOND + 7, id="Unix time with nanoseconds"),
        pytest.param("2006-01-01T00:00:00Z", 1136073600 * SECOND, id="date"),
        pytest.param("2006-01-01T01:00:00.25+01:00", 1136073600 * SECOND + SECOND // 4, id="date, zone, fraction"),
    ],
)
def test_moments(text: str, moment: int) -> None:
    assert parse_moment("--since", text, now_ns=NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "yesterday", "10x", "m", "1h30", "2006-13-01", "-5m", "1..5h", ".h", "2006-01-01T00:00:00."]
)
def test_other_moments_are_refused(text: str) -> None:
    with pytest.raises(FlagError, match="not a date, a Unix time or a duration"):
        parse_moment("--since", text, now_ns=NOW)


@given(time_ns=st.integers(SECOND, 4_000_000_000 * SECOND))
def test_what_the_log_writes_is_read_back_to_the_nanosecond(time_ns: int) -> None:
    assert parse_date(timestamp(time_ns)) == time_ns


@given(hours=st.integers(0, 1000), minutes=st.integers(0, 59), seconds=st.integers(0, 59))
def test_durations_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert duration_ns(f"{hours}h{minutes}m{seconds}s") == (hours * 3600 + minutes * 60 + seconds) * SECOND

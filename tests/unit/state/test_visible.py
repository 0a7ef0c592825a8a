"""Text of images and file names on its way to a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plugengine.state.names import one_line, visible


def test_control_characters_are_shown_as_escapes() -> None:
    assert visible("a\x1b[2Jb\x07\x7f\x9b31m\r\n\tc") == "a\\x1b[2Jb\\x07\\x7f\\x9b31m\\x0d\n\tc"


@given(st.text())
def test_nothing_that_moves_the_cursor_is_left(text: str) -> None:
    controls = {chr(number) for number in (*range(0x20), *range(0x7F, 0xA0))}
    assert not controls & set(one_line(text))
    assert controls & set(visible(text)) <= {"\n", "\t"}

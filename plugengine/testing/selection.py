"""Choose cases by an expression over the words of their ids, such as "remove and not (twice or half)"."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from plugengine.errors import UsageError

Match = Callable[[str], bool]
_TOKEN: Final = re.compile(r"\s*(\(|\)|[^\s()]+)")
_EXAMPLE: Final = 'an example: -k "remove and not twice"'


def compile_selection(text: str) -> Match:
    """Return a function that tells whether an id is chosen.

    A word is in an id if it is part of it, whatever the case; words are joined by `and`, `or`, `not` and parentheses.

    Raises:
        UsageError: The expression is not understood.
    """
    reader = _Reader(text)
    found = reader.alternatives()
    if reader.tokens:
        raise reader.error(f"{reader.tokens[0]!r} is not expected here")
    return found


class _Reader:
    """Reads an expression from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.tokens = _TOKEN.findall(text)

    def error(self, why: str) -> UsageError:
        return UsageError(f"-k {self._text!r}: {why}", hint=_EXAMPLE)

    def _take(self, *words: str) -> bool:
        if self.tokens and self.tokens[0].lower() in words:
            del self.tokens[0]
            return True
        return False

    def alternatives(self) -> Match:
        parts = [self._conjunction()]
        while self._take("or"):
            parts.append(self._conjunction())
        return lambda name: any(part(name) for part in parts)

    def _conjunction(self) -> Match:
        parts = [self._factor()]
        while self._take("and"):
            parts.append(self._factor())
        return lambda name: all(part(name) for part in parts)

    def _factor(self) -> Match:
        if self._take("not"):
            inner = self._factor()
            return lambda name: not inner(name)
        if self._take("("):
            inner = self.alternatives()
            if not self._take(")"):
                raise self.error("a parenthesis is not closed")
            return inner
        if not self.tokens:
            raise self.error("ends too early")
        word = self.tokens.pop(0).lower()
        if word in ("and", "or", ")"):
            raise self.error(f"{word!r} is not expected here")
        return lambda name: word in name.lower()

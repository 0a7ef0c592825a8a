"""The words of a Go template: cut into tokens, and the functions docker has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

MISSING: Final = type("Missing", (), {"__repr__": lambda _self: "<no value>"})()


class Token(NamedTuple):
    """One word inside of braces."""

    kind: str  # literal, field, variable, word, sign; member: a field right after a parenthesis
    text: str
    value: Any = None


_WORDS: Final = (
    r"\s*(?:"
    r'(?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)'
    r"|(?P<number>-?\d+(?:\.\d+)?)"
    r"|(?P<variable>\$\w*(?:\.\w+)*)"
    r"|(?P<field>\.(?:\w+(?:\.\w+)*)?)"
    r"|(?P<sign>:=|[|(),=])"
    r"|(?P<word>\w+)"
    r")"
)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r"}


def tokens_of(text: str, fail: Callable[[str], Exception]) -> Iterator[str | list[Token]]:
    """Yield the text between braces as it is, and what is in them as tokens.

    `{{-` and `-}}` take the blanks beside them away, `{{/* … */}}` is nothing.
    """
    trim = False
    position = 0
    while True:
        begin = text.find("{{", position)
        literal = text[position:] if begin < 0 else text[position:begin]
        if trim:
            literal = literal.lstrip()
        if begin >= 0 and text.startswith(("{{- ", "{{-\t", "{{-\n"), begin):
            literal = literal.rstrip()
        if literal:
            yield literal
        if begin < 0:
            return
        end = _closing(text, begin + 2)
        if end < 0:
            raise fail("braces are not closed")
        inside = text[begin + 2 : end]
        trim = inside.endswith((" -", "\t-", "\n-"))
        inside = inside.removesuffix("-") if trim else inside
        inside = inside.removeprefix("-") if inside.startswith(("- ", "-\t", "-\n")) else inside
        position = end + 2
        if not inside.strip().startswith("/*"):
            yield list(_split(inside, fail))


def _closing(text: str, start: int) -> int:
    """Return where the braces close; those inside of a string do not count."""
    quote = ""
    position = start
    while position < len(text):
        letter = text[position]
        if quote:
            if letter == "\\" and quote == '"':
                position += 1
            elif letter == quote:
                quote = ""
        elif letter in '"`':
            quote = letter
        elif text.startswith("}}", position):
            return position
        position += 1
    return -1


def _split(inside: str, fail: Callable[[str], Exception]) -> Iterator[Token]:
    pattern = re.compile(_WORDS)
    position = 0
    while inside[position:].strip():
        match = pattern.match(inside, position)
        if match is None:
            raise fail(f"{inside[position:].strip()} is not understood")
        is_member = match["field"] not in (None, ".") and inside[:position].endswith(")") and match[0][0] == "."
        position = match.end()
        kind, text = str(match.lastgroup), match[str(match.lastgroup)]
        if kind == "string":
            yield Token("literal", text, _string(text))
        elif kind == "number":
            yield Token("literal", text, float(text) if "." in text else int(text))
        elif text in ("true", "false", "nil"):
            yield Token("literal", text, {"true": True, "false": False, "nil": None}[text])
        else:
            yield Token("member" if is_member else kind, text)


def _string(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1]
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), text[1:-1])


def show(value: Any) -> str:
    """Return a value as Go prints it."""
    if value is MISSING or value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{key}:{show(item)}' for key, item in sorted(value.items()))}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(show(item) for item in value)}]"
    return str(value)


def truth(value: Any) -> bool:
    """Tell whether a value counts as true: it is not empty, zero or missing."""
    return value is not MISSING and bool(value)


def _json(value: Any) -> str:
    import json

    return json.dumps(None if value is MISSING else value, ensure_ascii=False, separators=(",", ":"))


def _pretty(value: Any) -> str:
    import json

    return json.dumps(None if value is MISSING else value, ensure_ascii=False, indent=4)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is MISSING or value is None:
            return MISSING
        if isinstance(value, Mapping):
            value = value.get(key, MISSING)
        elif not isinstance(key, int) or not 0 <= key < len(value):
            raise LookupError(f"{key} of {len(value)} items")
        else:
            value = value[key]
    return value


_VERB: Final = re.compile(r"%[-+ 0#]*(\*|\d+)?(?:\.(\*|\d+))?")
_WIDEST: Final = 1000  # a line for people; Go stops at a million, for each verb of a pattern


def _join(items: Any, separator: str) -> str:
    return separator.join(show(item) for item in items or ())


def _truncate(text: Any, length: int) -> str:
    return show(text)[:length]


def _slice(value: Any, start: int = 0, end: int | None = None) -> Any:
    return value[start:end]


def _printf(pattern: str, *values: Any) -> str:
    for width in (number for verb in _VERB.finditer(pattern) for number in verb.groups() if number):
        if width == "*" or len(width) > len(str(_WIDEST)) or int(width) > _WIDEST:
            raise ValueError(f"width {width[:20]}: not a number up to {_WIDEST}")
    # %v and %q are Go's own; what is left means the same here.
    converted = re.sub(r"%[-+ 0]*\d*v", lambda match: match[0][:-1] + "s", pattern).replace("%q", '"%s"')
    return converted % tuple(show(value) if not isinstance(value, int | float) else value for value in values)


def _equal(first: Any, *others: Any) -> bool:
    return any(first == other for other in others)


FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "json": _json,
    "pretty": _pretty,
    "index": _index,
    "slice": _slice,
    "len": lambda value: 0 if value is None or value is MISSING else len(value),
    "join": _join,
    "split": lambda text, separator: show(text).split(separator),
    "lower": lambda text: show(text).lower(),
    "upper": lambda text: show(text).upper(),
    "title": lambda text: show(text).title(),
    "truncate": _truncate,
    "pad": lambda text, before, after: f"{' ' * before}{show(text)}{' ' * after}",
    "print": lambda *values: " ".join(show(value) for value in values),
    "println": lambda *values: " ".join(show(value) for value in values) + "\n",
    "printf": _printf,
    "eq": _equal,
    "ne": lambda first, other: first != other,
    "lt": lambda first, other: first < other,
    "le": lambda first, other: first <= other,
    "gt": lambda first, other: first > other,
    "ge": lambda first, other: first >= other,
    "not": lambda value: not truth(value),
    "and": lambda *values: next((value for value in values if not truth(value)), values[-1]),
    "or": lambda *values: next((value for value in values if truth(value)), values[-1]),
}

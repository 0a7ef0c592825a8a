"""Names and ids of containers: what is allowed, what is invented when none is given; and text kept in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final

from plugengine.errors import UsageError
from plugengine.model import SHORT_ID_LENGTH

ID_LENGTH: Final = 64

_NAME: Final = "[a-zA-Z0-9][a-zA-Z0-9_.-]+"
_LONGEST_NAME = 255  # NAME_MAX: volumes become directories
_CONTROLS: Final = (*range(0x20), *range(0x7F, 0xA0))  # C0, DEL and C1; see console_codes(4)
_BLANKS: Final = dict.fromkeys(_CONTROLS, " ")
_ESCAPES: Final = {number: f"\\x{number:02x}" for number in _CONTROLS if chr(number) not in "\n\t"}

_ADJECTIVES: Final = (
    "agile amber ample awake balmy brave breezy bright brisk calm candid cheery clear clever cosy crisp curious "
    "daring deft eager early earnest easy fair fleet fond frank fresh gentle glad golden hardy hearty honest humble "
    "jolly keen kind lively loyal lucid lucky mellow merry mild modest neat nimble noble patient placid plucky polite "
    "proud quick quiet ready robust rosy serene sharp shiny silent silver simple sleek snug sober solid steady sunny "
    "swift tidy upbeat vivid warm wise witty young zesty"
)
_NOUNS: Final = (
    "acorn alder anchor aspen badger beacon beech birch bison brook canyon cedar cliff clover comet condor coral "
    "crane creek cricket curlew delta dove dune egret elm ember falcon fern finch fjord fox garnet geyser glacier "
    "grove harbour hare hazel heron hickory ibis iris island jasper kestrel lagoon lantern larch lark lichen linden "
    "lotus lynx magpie maple marten meadow meteor mole moss newt oak opal orchid osprey otter owl pebble pine plover "
    "pond poppy quail quartz rapids raven reed ridge robin rowan saddle sparrow spruce stork summit swan thistle "
    "tide trout tulip valley walnut willow wren yarrow"
)


def new_id() -> str:
    """Return a random id; its short form has a letter, so that no command takes it for a number."""
    while True:
        found = os.urandom(ID_LENGTH // 2).hex()
        if not found[:SHORT_ID_LENGTH].isdecimal():
            return found


def new_name(attempt: int = 0) -> str:
    """Return a random name; from the third attempt on with a number after it."""
    name = f"{_pick(_ADJECTIVES)}_{_pick(_NOUNS)}"
    return name if attempt < 2 else f"{name}{_number() % 10 ** min(attempt, 6)}"


def check_name(name: str, *, what: str = "container") -> str:
    """Return the name, or say what is wrong with it.

    Raises:
        UsageError: It is not one letter or digit followed by letters, digits, "_", "." or "-".
    """
    if not re.fullmatch(_NAME, name) or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"{what} name {name!r}: not allowed",
            hint=f"two to {_LONGEST_NAME} of a-z A-Z 0-9 _ . - and the first one a letter or digit",
        )
    return name


def near_miss(name: str, known: list[str]) -> str | None:
    """Return a hint with the known name most like this one, or None."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else None


def known_names(lead: str, name: str, known: Sequence[str]) -> str:
    """Return a hint for a name that is not among those there are: "LEAD: a, b; did you mean b?"."""
    near = near_miss(name, list(known))
    return f"{lead}: {', '.join(known) or 'none'}" + (f"; {near}" if near else "")


def _pick(words: str) -> str:
    choices = words.split()
    return choices[_number() % len(choices)]


def _number() -> int:
    return int.from_bytes(os.urandom(4), "little")


def visible(text: str) -> str:
    """Return text whose control characters, which could move the cursor or forge a line, are written as escapes.

    Newlines and tabs stay; names that are to keep to one line go through `one_line`.
    """
    return text.translate(_ESCAPES)


def one_line(text: str) -> str:
    """Return text with blanks for control characters, which could move the cursor or forge a row."""
    return text.translate(_BLANKS)

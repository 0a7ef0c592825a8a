"""Read the language of Dockerfiles: lines, instructions, words and variables.

The package e2b_dockerfile_utils knows the language as BuildKit does; here its values and errors become ours.
See docs/decisions/0051-the-language-of-dockerfiles.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from plugengine.errors import UsageError

if TYPE_CHECKING:
    from e2b_dockerfile_utils import ShellLex

_LIBRARY_PREFIX = "Dockerfile parse error on line "


class Instruction(Struct, frozen=True, kw_only=True):
    """One instruction, nothing of it expanded yet."""

    name: str  # in capitals
    args: tuple[str, ...]  # of ENV and LABEL: name, value and what was between them, in turns
    flags: tuple[str, ...]  # "--interval=30s"
    json: bool  # the arguments were a JSON list
    text: str  # as written, its lines joined
    place: str  # names it in errors
    escape: str  # "\\" or "`"

    def word(self, text: str, env: Mapping[str, str]) -> str:
        """Return a word with its quotes and escapes taken away and its variables replaced; unset ones are empty.

        Raises:
            UsageError: A quote or brace is not closed, or what is asked of a variable is not known.
        """
        try:
            return self._lexer(env).process_word(text)
        except ValueError as exc:
            raise self.fault(str(exc)) from exc

    def words(self, text: str, env: Mapping[str, str]) -> list[str]:
        """Return the words that a text becomes when its variables are replaced. Raises: as `word`."""
        try:
            return self._lexer(env).process_words(text)
        except ValueError as exc:
            raise self.fault(str(exc)) from exc

    def _lexer(self, env: Mapping[str, str]) -> ShellLex:
        from e2b_dockerfile_utils import ShellLex

        return ShellLex(self.escape, env=env, skip_unset_env=False)

    def fault(self, why: str) -> UsageError:
        """Return the error that says what is wrong with this instruction."""
        return UsageError(f"{self.place}: {why}")


def parse(text: str, place: Callable[[int], str]) -> list[Instruction]:
    """Return the instructions of a Dockerfile, or of a part of one.

    Args:
        text: Its lines.
        place: Returns what to call a line in errors, given its number; they are counted from 1.

    Raises:
        UsageError: A line is not understood.
    """
    from e2b_dockerfile_utils import DockerfileSyntaxError, parse_dockerfile_ast

    try:
        found = parse_dockerfile_ast(text)
    except DockerfileSyntaxError as exc:
        why = str(exc).removeprefix(f"{_LIBRARY_PREFIX}{exc.line}: ")
        raise UsageError(f"{place(exc.line or 1)}: {why}") from exc
    except RecursionError as exc:
        lines = text.split("\n")
        deepest = max(range(len(lines)), key=lambda number: lines[number].count("["))
        raise UsageError(f"{place(deepest + 1)}: brackets are nested too deep") from exc
    return [
        Instruction(
            name=one.name,
            args=tuple(one.args),
            flags=tuple(one.flags),
            json=one.json,
            text=one.original,
            place=place(one.start_line),
            escape=found.escape_token,
        )
        for one in found.instructions
    ]

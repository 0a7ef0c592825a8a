"""The error for a flag whose value is not understood."""

from __future__ import annotations

from plugengine.errors import UsageError

USAGE_EXIT_CODE = 2
_LONGEST_SHOWN = 100


class CommandLineError(UsageError):
    """The command line makes no sense."""

    exit_code = USAGE_EXIT_CODE


class FlagError(CommandLineError):
    """A flag's value is not understood; says which, why, and what one looks like.

    Args:
        flag: As on the command line, `--memory`.
        value: What was given.
        why: What is wrong with it, in lower case.
        example: A good value.
    """

    def __init__(self, flag: str, value: str, why: str, *, example: str | None = None) -> None:
        shown = value if len(value) <= _LONGEST_SHOWN else f"{value[:_LONGEST_SHOWN]}…"
        hint = f"for example {flag} {example}" if example else None
        super().__init__(f"{flag} {shown or repr(shown)}: {why}", hint=hint)
        self.flag = flag
        self.value = value

"""What became of one case: verdict, reason, time, and what the driver left behind."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class Verdict(Enum):
    """How a case ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"  # this host lacks something the case needs
    LEFT_OUT = "left-out"  # the driver does not claim what is tested, or the case is slow and the run quick

    @property
    def words(self) -> str:
        """The verdict as a person would say it."""
        return self.value.replace("-", " ")


class Outcome(Struct, frozen=True, kw_only=True):
    """The result of one case for one driver."""

    id: str
    sentence: str
    claim: str
    verdict: Verdict
    message: str = ""  # why it failed, was skipped or left out
    leaks: tuple[str, ...] = ()  # what was left behind or changed, each a sentence; any of them is a failure
    traceback: str = ""
    log: str = ""  # the end of what the driver and its servers wrote
    duration_s: float = 0.0

    @property
    def reasons(self) -> tuple[str, ...]:
        """Everything that is to be said about it, the main thing first."""
        return (*((self.message,) if self.message else ()), *self.leaks)

"""What became of one case: verdict, reason, time, and what the driver left behind."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from plugengine.model import Deviation


class Verdict(Enum):
    """How a case ended."""

    PASSED = "passed"
    FAILED = "failed"
    DEVIATING = "deviating"  # failed, as the driver declares (`DriverInfo.deviations`)
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
    deviation: str = ""  # why the driver says that it fails
    leaks: tuple[str, ...] = ()  # what was left behind or changed, each a sentence; any of them is a failure
    traceback: str = ""
    log: str = ""  # the end of what the driver and its servers wrote
    duration_s: float = 0.0

    @property
    def reasons(self) -> tuple[str, ...]:
        """Everything that is to be said about it, the main thing first."""
        return (*((self.message,) if self.message else ()), *self.leaks)

    def judged(self, declared: Deviation | None) -> Outcome:
        """Return it in the light of what the driver declares about the case."""
        if declared is None:
            return self
        if self.verdict is Verdict.FAILED:
            return replace(self, verdict=Verdict.DEVIATING, deviation=declared.why)
        if self.verdict is Verdict.PASSED and not declared.sometimes:
            message = f"passes, and is declared to deviate ({declared.why}): remove the declaration"
            return replace(self, verdict=Verdict.FAILED, message=message)
        return self

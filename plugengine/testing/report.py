"""What a run found, as a value and as JSON of a versioned form."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from plugengine.hookspecs import API_VERSION
from plugengine.testing.outcome import Outcome, Verdict

if TYPE_CHECKING:
    from plugengine.testing.loading import Tested

FORMAT: Final = 1  # of the JSON; a number that is not this one must not be read


class DriverFacts(Struct, frozen=True, kw_only=True):
    """The driver that was tested."""

    kind: str
    name: str
    distribution: str
    version: str
    summary: str
    api_version: tuple[int, int]
    capabilities: tuple[str, ...]
    options: dict[str, str]  # given for the run


class HostFacts(Struct, frozen=True, kw_only=True):
    """Where it was tested."""

    system: str  # of /etc/os-release
    kernel: str
    machine: str
    processors: int
    filesystem: str  # the cases wrote on
    python: str
    plugengine: str
    api_version: tuple[int, int]


class Report(Struct, frozen=True, kw_only=True):
    """The result of one run."""

    format: int = FORMAT
    driver: DriverFacts
    host: HostFacts
    started: str  # UTC, ISO 8601
    duration_s: float
    jobs: int
    reasons: tuple[str, ...]  # why the driver does not work here; then there are no outcomes
    outcomes: tuple[Outcome, ...]

    @classmethod
    def of(
        cls,
        tested: Tested,
        outcomes: Sequence[Outcome],
        *,
        reasons: tuple[str, ...],
        options: Mapping[str, str],
        filesystem: str,
        started: float,
        jobs: int,
    ) -> Report:
        """Put a report together."""
        info = tested.driver.info
        return cls(
            driver=DriverFacts(
                kind=tested.kind.value,
                name=tested.name,
                distribution=tested.entry.distribution,
                version=tested.entry.version,
                summary=info.summary,
                api_version=info.api_version,
                capabilities=tuple(sorted(capability.value for capability in info.capabilities)),
                options=dict(options),
            ),
            host=_host_facts(filesystem),
            started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            duration_s=round(time.time() - started, 3),
            jobs=jobs,
            reasons=reasons,
            outcomes=tuple(outcomes),
        )

    @property
    def supported(self) -> bool:
        """Whether the driver works on this host at all."""
        return not self.reasons

    @property
    def ok(self) -> bool:
        """Whether cases were run and none failed."""
        counts = self.counts
        return self.supported and counts[Verdict.FAILED] == 0 and counts[Verdict.PASSED] > 0

    @property
    def counts(self) -> Counter[Verdict]:
        """How many cases ended how."""
        return Counter(outcome.verdict for outcome in self.outcomes)

    @property
    def failures(self) -> list[Outcome]:
        """The cases that failed."""
        return [outcome for outcome in self.outcomes if outcome.verdict is Verdict.FAILED]

    @property
    def deviations(self) -> dict[str, list[Outcome]]:
        """The cases that failed as the driver declares, by the reason it gives."""
        found: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            if outcome.verdict is Verdict.DEVIATING:
                found.setdefault(outcome.deviation, []).append(outcome)
        return found

    @property
    def summary(self) -> str:
        """One line: "41 passed, 2 failed"."""
        if self.reasons:
            return "not supported here"
        counts = self.counts
        return ", ".join(f"{counts[verdict]} {verdict.words}" for verdict in Verdict if counts[verdict]) or "no cases"

    def to_json(self) -> bytes:
        """Return it as JSON; see docs/conformance.md."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> Report:
        """Read one.

        Raises:
            ValueError: It is not a report, or of another format.
        """
        head: Any = msgspec.json.decode(content)
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise ValueError(f"not a conformance report of format {FORMAT}")
        return msgspec.convert(head, cls)


def _host_facts(filesystem: str) -> HostFacts:
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("plugengine")
    except PackageNotFoundError:  # run from a tree that is not installed
        own = "unknown"
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        system = ""
    return HostFacts(
        system=system or platform.system(),
        kernel=os.uname().release,
        machine=os.uname().machine,
        processors=os.cpu_count() or 1,
        filesystem=filesystem,
        python=platform.python_version(),
        plugengine=own,
        api_version=API_VERSION,
    )

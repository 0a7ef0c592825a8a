"""What a driver declares not to do is seen in every report, never counted as passed, and must be true."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from plugengine.errors import UsageError
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.model import Deviation, DriverInfo
from plugengine.testing import Report, Verdict, run
from plugengine.testing.badge import words
from plugengine.testing.page import page
from tests.conftest import need_root
from tests.kit import fakes

if TYPE_CHECKING:
    from plugengine.testing import Case

WHY = "the <program> writes no times"
ONE, TWO = "storage.content.times", "storage.content.modes"
REAL = "storage.contract.remount"


class Deviating(fakes.Good):
    """Declares that it does not pass a case."""

    def __init__(self, *deviations: Deviation) -> None:
        self.deviations = deviations

    @hookimpl
    def pe_storage_info(self) -> DriverInfo:
        return DriverInfo(api_version=API_VERSION, summary="a test's", deviations=self.deviations)


def case(name: str, function: Any) -> Case:
    return fakes.make_case(function, name.partition(".")[2])


def report_of(*cases: Case, sometimes: bool = False) -> Report:
    need_root()
    declared = Deviation(cases=(ONE,), why=WHY, sometimes=sometimes)
    return run("storage", Deviating(declared), chosen=cases)


def test_a_declared_case_that_fails_is_shown_with_the_reason_and_is_no_pass() -> None:
    report = report_of(case(ONE, fakes.fail), case(TWO, fakes.nothing))
    deviating = next(outcome for outcome in report.outcomes if outcome.id == ONE)
    assert (deviating.verdict, deviating.deviation) == (Verdict.DEVIATING, WHY)
    assert deviating.message == "<seen>, not wanted"
    assert report.ok
    assert report.summary == "1 passed, 1 deviating"
    assert words(report)[0] == "1 passed, 1 deviating"
    assert [outcome.id for outcome in report.deviations[WHY]] == [ONE]
    assert "Deviates: the &lt;program&gt; writes no times (1)" in page(report)
    assert Report.from_json(report.to_json()) == report


def test_a_report_of_deviations_alone_is_no_good_one() -> None:
    assert not report_of(case(ONE, fakes.fail)).ok


def test_a_declared_case_that_passes_is_a_failure() -> None:
    [outcome] = report_of(case(ONE, fakes.nothing)).outcomes
    assert outcome.verdict is Verdict.FAILED
    assert "remove the declaration" in outcome.message
    assert WHY in outcome.message


def test_a_case_that_deviates_sometimes_may_pass() -> None:
    assert report_of(case(ONE, fakes.nothing), sometimes=True).ok


def test_a_skipped_case_stays_skipped() -> None:
    [outcome] = report_of(case(ONE, fakes.cannot)).outcomes
    assert outcome.verdict is Verdict.SKIPPED


def test_a_failure_that_is_not_declared_stays_a_failure() -> None:
    report = report_of(case(TWO, fakes.fail))
    assert [outcome.verdict for outcome in report.outcomes] == [Verdict.FAILED]


def test_a_deviation_in_a_case_that_does_not_exist_is_refused_with_the_near_miss() -> None:
    need_root()
    with pytest.raises(UsageError, match=r"storage\.content\.tmes: no such case") as caught:
        run("storage", Deviating(Deviation(cases=("storage.content.tmes",), why=WHY)), chosen=[])
    assert caught.value.hint == f"did you mean {ONE}?"


SUITE = f"""
import pytest
from plugengine.model import Deviation
from plugengine.testing import StorageConformance
from tests.kit.test_deviations import Deviating

class TestIt(StorageConformance):
    @pytest.fixture(scope="session")
    def driver(self):
        return Deviating(Deviation(cases=({REAL!r},), why="it mounts nothing"))
"""


def test_under_pytest_a_deviation_is_an_expected_failure(tmp_path: Path) -> None:
    need_root()
    (tmp_path / "test_it.py").write_text(SUITE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", REAL, "-rx"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 xfailed" in done.stdout
    assert "deviates: it mounts nothing: " in done.stdout

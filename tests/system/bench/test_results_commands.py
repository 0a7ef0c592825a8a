"""`pe bench show` and `pe bench compare`: exit codes, and files that are no results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from plugengine.bench.results import Run, to_json
from tests.conftest import Pe
from tests.system.test_bad_input import ENGINE, assert_refused
from tests.unit.bench.test_comparing import around, cell, run

USAGE = 2


def write(path: Path, found: Run) -> str:
    path.write_bytes(to_json(found))
    return str(path)


@pytest.fixture
def before(tmp_path: Path) -> str:
    return write(tmp_path / "before.json", run(cell(*around(1.0)), cell(*around(1.0), column="other")))


@pytest.fixture
def slower(tmp_path: Path) -> str:
    return write(tmp_path / "slower.json", run(cell(*around(1.2, 1)), cell(*around(1.0, 2), column="other")))


def test_the_exit_code_of_a_comparison_is_for_machines(pe: Pe, before: str, slower: str) -> None:
    worse = pe("bench", "compare", before, slower)
    assert worse.returncode == 1
    assert "PAST THE THRESHOLD" in worse.stdout
    assert pe("bench", "compare", "--threshold", "50%", before, slower).returncode == 0
    assert pe("bench", "compare", "--threshold", "15", before, slower).returncode == 1
    assert pe("bench", "compare", slower, before).returncode == 0
    same = pe("bench", "compare", before, before)
    assert (same.returncode, same.stdout) == (0, "2 cells compared: 2 no difference\n")


def test_what_fails_in_the_second_run_fails_the_comparison(pe: Pe, tmp_path: Path, before: str) -> None:
    broken = write(tmp_path / "broken.json", run(cell(error="round 1: crashed"), cell(*around(1.0), column="other")))
    done = pe("bench", "compare", "--threshold", "900%", before, broken)
    assert done.returncode == 1
    assert "fails now: round 1: crashed" in done.stdout


def test_a_run_is_shown_again_with_its_page(pe: Pe, tmp_path: Path, before: str) -> None:
    page = tmp_path / "page.html"
    done = pe("bench", "show", "--html", str(page), before, check=True)
    assert "other" in done.stdout
    assert "<html" in page.read_text()


def test_another_kind_is_refused(pe: Pe, tmp_path: Path, before: str) -> None:
    other = write(tmp_path / "net.json", run(cell(*around(1.0)), kind="net"))
    assert_refused(pe("bench", "compare", before, other), ENGINE, "start", "net", hint="runs of one kind")


def test_another_schema_is_refused_with_both_numbers(pe: Pe, tmp_path: Path, before: str) -> None:
    raw = json.loads(Path(before).read_bytes())
    (tmp_path / "new.json").write_text(json.dumps({**raw, "schema": 99}))
    done = pe("bench", "compare", before, str(tmp_path / "new.json"))
    assert_refused(done, ENGINE, "new.json", "schema 99", "reads 1", hint="measure again")
    (tmp_path / "none.json").write_text("{}")
    assert_refused(pe("bench", "show", str(tmp_path / "none.json")), ENGINE, "none.json", "schema None")


@pytest.mark.parametrize(
    ("content", "words"),
    [("", ["not JSON"]), ("[1, 2]", ["schema None"]), ('{"schema": 1}', ["missing required field"])],
)
def test_what_is_no_result_is_refused(pe: Pe, tmp_path: Path, content: str, words: list[str]) -> None:
    path = tmp_path / "odd.json"
    path.write_text(content)
    assert_refused(pe("bench", "show", str(path)), ENGINE, "odd.json", *words)


def test_a_file_that_is_not_there_and_a_threshold_that_is_none_are_named(pe: Pe, before: str) -> None:
    assert_refused(pe("bench", "show", "/nowhere/x.json"), ENGINE, "/nowhere/x.json", "no such file")
    done = pe("bench", "compare", "--threshold", "much", before, before)
    assert_refused(done, USAGE, "--threshold much", "not a percentage", hint="10%")
    for bad in ("nan", "-5", "inf"):
        assert pe("bench", "compare", f"--threshold={bad}", before, before).returncode == USAGE


def test_an_interrupted_run_says_so_when_it_is_shown(pe: Pe, tmp_path: Path) -> None:
    path = write(tmp_path / "part.json", replace(run(cell(*around(1.0))), partial=True))
    assert "INTERRUPTED" in pe("bench", "show", path, check=True).stdout

"""The page of a benchmark: what it says of a run, before any browser sees it."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from msgspec.structs import replace

from plugengine.bench.page import page
from plugengine.bench.page.figures import Figure, State, figures_of
from plugengine.bench.results import HIGHER, Cell, Column, Run, Workload, from_json
from plugengine.errors import NotSupportedError
from tests.bench_runs import HOSTILE, bench_run

VOID = {"meta", "br", "rect"}


class Checker(HTMLParser):
    """Notes elements that are not closed, and attributes that run code."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.errors: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.errors += [f"{tag} {name}" for name, value in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.errors.append(f"</{tag}>")


def small(
    mine: tuple[float, ...], base: tuple[float, ...], *, better: str = "lower", error: str = "", unit: str = "s"
) -> Run:
    """Return a run of one workload with two drivers."""
    return replace(
        bench_run(),
        columns=(Column(name="overlay"), Column(name="other")),
        workloads=(Workload(name="walk", title="Walk", sentence="", group="g", unit=unit, better=better),),
        cells=(
            Cell(workload="walk", column="overlay", values=base, rounds=tuple(range(1, len(base) + 1)), error=error),
            Cell(workload="walk", column="other", values=mine, rounds=tuple(range(1, len(mine) + 1))),
        ),
    )


def other(run: Run) -> Figure:
    return figures_of(run).rows[0].figures[1]


def test_twice_the_time_is_a_cost_of_two() -> None:
    assert other(small((2.0, 4.0, 6.0), (1.0, 2.0, 3.0))).verdict() == "2.00"


def test_half_the_throughput_is_a_cost_of_two_as_well() -> None:
    assert other(small((1.0, 2.0, 3.0), (2.0, 4.0, 6.0), better=HIGHER, unit="B/s")).verdict() == "2.00"


def test_a_cost_that_may_be_one_is_no_difference() -> None:
    assert other(small((0.9, 1.1, 1.2, 0.8), (1.0, 1.0, 1.0, 1.0))).verdict() == "="


def test_too_few_rounds_are_no_verdict() -> None:
    assert other(small((2.0, 2.0), (1.0, 1.0))).verdict() == "2.00?"


@pytest.mark.parametrize(
    "run",
    [
        small((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
        small((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        small((1.0, 1.0, 1.0), (), error="broken"),
        small((1.0, 1.0, 1.0), ()),
    ],
    ids=["zero baseline", "zero", "failed baseline", "absent baseline"],
)
def test_where_nothing_can_be_compared_there_is_no_cost(run: Run) -> None:
    assert other(run).cost is None
    assert other(run).verdict() == "·"
    assert "<html" in page(run)


def test_what_failed_what_is_unsupported_and_what_was_not_measured_are_told_apart() -> None:
    figures = figures_of(bench_run())
    states = {(row.workload.name, figure.column.name): figure.state for row in figures.rows for figure in row.figures}
    assert states["xattrs", "fuse-overlayfs"] is State.FAILED
    assert states["xattrs", "btrfs"] is State.UNSUPPORTED
    assert states["mount-memory", "plain directory"] is State.ABSENT
    assert states["xattrs", "overlay"] is State.MEASURED
    assert len(list(figures.failures())) == 2


def test_a_mean_says_over_how_many_workloads_it_is() -> None:
    means = {mean.column.name: mean for mean in figures_of(bench_run()).means}
    assert means["vfs"].count == 25
    assert means["fuse-overlayfs"].count == 23
    assert means["btrfs"].value is None
    assert "23 of 25" in page(bench_run())


def test_every_failure_is_listed_with_its_reason() -> None:
    text = page(bench_run())
    section = text[text.index('id="failures"') : text.index('id="environment"')]
    assert "setxattr user.pe: Operation not supported" in section
    assert "too many layers</bdi> (after 2 rounds)" in section
    assert "/var/lib/plugengine is ext4, not btrfs" in section


def test_a_run_that_was_interrupted_says_so_at_the_top() -> None:
    text = page(replace(bench_run(), partial=True))
    assert text.index("Interrupted") < text.index('id="overview"')


@pytest.mark.parametrize("kind", ["storage", "start", "net", HOSTILE])
def test_a_run_of_any_kind_has_a_page(kind: str) -> None:
    assert "<h1>" in page(replace(bench_run(), kind=kind))


def test_a_run_without_any_workload_has_a_page() -> None:
    assert "<h1>" in page(replace(bench_run(), workloads=(), cells=()))


@pytest.mark.parametrize("name", ["overlay", HOSTILE])
def test_the_markup_is_closed_in_order_and_its_ids_are_unique(name: str) -> None:
    run = bench_run()
    columns = tuple(replace(column, name=name) if column.name == "vfs" else column for column in run.columns)
    checker = Checker()
    checker.feed(page(replace(run, columns=columns)) if name == HOSTILE else page(run))
    assert checker.errors == []
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))


def test_strangers_words_do_not_end_a_script_nor_begin_one() -> None:
    run = bench_run()
    plain, hostile = (page(each) for each in (run, replace(run, warnings=(HOSTILE,), image=HOSTILE, baseline=HOSTILE)))
    for mark in ("<script", "</script", "<!--"):
        assert hostile.count(mark) == plain.count(mark)
    assert "\x1b" not in hostile


def test_the_values_can_be_taken_out_of_the_page() -> None:
    found = re.search(r'href="data:application/json;base64,([^"]+)"', page(bench_run()))
    assert found is not None
    assert from_json(base64.b64decode(found[1]), "page") == bench_run()


def test_the_same_run_makes_the_same_page() -> None:
    assert page(bench_run()) == page(bench_run())


def test_it_stays_small_enough_to_be_sent_by_mail() -> None:
    assert len(page(bench_run()).encode()) < 1_500_000


def test_it_names_no_other_place() -> None:
    text = page(bench_run())
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text[: text.index("<script>")]) == []


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(NotSupportedError) as caught:
        page(bench_run())
    assert caught.value.hint == "pip install 'plugengine[bench]'"


def test_the_library_is_not_imported_before_a_page_is_written() -> None:
    code = "import plugengine.bench.page, sys; sys.exit('vl_convert' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The report as JSON, as a page and as a badge: complete, versioned, and nothing in it is taken for markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest

from plugengine.model import Capability
from plugengine.testing import Outcome, Report, Verdict, run
from plugengine.testing.badge import badge
from plugengine.testing.page import page
from tests.conftest import need_root
from tests.kit import fakes

NASTY = "<script>alert('&\"')</script>"
VOID = {"meta", "br"}


class Nasty(fakes.Good):
    capabilities = frozenset({Capability.QUOTA})


@pytest.fixture(scope="module")
def report() -> Report:
    need_root()
    cases = [
        fakes.make_case(fakes.fail, "remove.twice", sentence=f"What it says: {NASTY}"),
        fakes.make_case(fakes.speak, "remove.half"),
        fakes.make_case(fakes.cannot, "mount.odd"),
        fakes.make_case(fakes.nothing, "mount.well"),
        fakes.make_case(fakes.nothing, "quota.refused", refused=Capability.QUOTA),
    ]
    return run("storage", Nasty(), name="na<sty>", chosen=cases, options={"colour": NASTY})


def test_the_json_has_what_is_documented(report: Report) -> None:
    found = json.loads(report.to_json())
    assert found["format"] == 1
    assert {name: sorted(found[name]) for name in ("driver", "host")} == {
        "driver": ["api_version", "capabilities", "distribution", "kind", "name", "options", "summary", "version"],
        "host": [
            "api_version",
            "filesystem",
            "kernel",
            "machine",
            "plugengine",
            "processors",
            "python",
            "system",
        ],
    }
    assert sorted(found) == ["driver", "duration_s", "format", "host", "jobs", "outcomes", "reasons", "started"]
    assert sorted(found["outcomes"][0]) == [
        "claim",
        "deviation",
        "duration_s",
        "id",
        "leaks",
        "log",
        "message",
        "sentence",
        "traceback",
        "verdict",
    ]
    verdicts = {outcome["id"]: outcome["verdict"] for outcome in found["outcomes"]}
    assert verdicts == {
        "storage.mount.odd": "skipped",
        "storage.mount.well": "passed",
        "storage.quota.refused": "left-out",
        "storage.remove.half": "failed",
        "storage.remove.twice": "failed",
    }


def test_a_report_read_back_is_the_same(report: Report) -> None:
    assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"format": 2}', b"{"], ids=str)
def test_what_is_no_report_of_this_format_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a conformance report|truncated"):
        Report.from_json(content)


class Markup(HTMLParser):
    """Checks that every element is closed by its own tag, and keeps what is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.text = ""
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Markup:
    markup = Markup()
    markup.feed(text)
    markup.close()
    assert markup.open == []
    return markup


def test_the_page_shows_every_case_with_its_words_as_words(report: Report) -> None:
    text = page(report)
    markup = read(text)
    assert "script" not in markup.names
    assert NASTY in markup.text
    assert "na<sty>" in markup.text
    assert "a <b>test's</b> own" in markup.text
    for outcome in report.outcomes:
        assert outcome.sentence in markup.text
        assert all(reason in markup.text for reason in outcome.reasons)
        assert outcome.traceback in markup.text
    assert "said on output" in markup.text
    assert all(fact in markup.text for fact in (report.host.kernel, report.host.filesystem, report.driver.version))


def test_the_page_leads_from_the_top_to_each_failure(report: Report) -> None:
    attributes = read(page(report)).attributes
    for outcome in report.failures:
        assert ("href", f"#{outcome.id}") in attributes
        assert ("id", outcome.id) in attributes


def test_the_page_needs_nothing_else(report: Report) -> None:
    text = page(report)
    outside = [value for name, value in read(text).attributes if name in {"src", "href"}]
    assert all(value and value.startswith("#") for value in outside)
    assert not re.search(r"url\(\s*['\"]?(?!#)", text)
    assert "@import" not in text


def test_the_page_groups_cases_by_the_second_word_of_their_ids_and_what_was_left_out_comes_last(report: Report) -> None:
    headings = re.findall('<h2>(.*?)</h2>|rowgroup">(.*?)<', page(report))
    assert ["".join(heading) for heading in headings] == ["Cases", "mount", "remove", "Left out", "quota"]


def changed(report: Report, **changes: Any) -> Report:
    return msgspec.structs.replace(report, **changes)


def test_the_badge_is_a_picture_that_says_how_many_failed(report: Report) -> None:
    root = ET.fromstring(badge(report))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "".join(root.itertext()).count("2 of 3 failed") == 2, "as title and as text"


def passed(outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
    return tuple(outcome for outcome in outcomes if outcome.verdict is not Verdict.FAILED)


def test_only_a_run_in_which_something_passed_and_nothing_failed_has_a_badge_that_says_passed(report: Report) -> None:
    good = changed(report, outcomes=passed(report.outcomes))
    assert good.ok
    assert "1 passed" in badge(good)
    assert "no case was run" in badge(changed(report, outcomes=()))
    assert "not supported here" in badge(changed(good, reasons=("the moon is full",)))


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_colours_of_the_page_can_be_read_on_light_and_dark_and_paper(report: Report) -> None:
    themes = re.findall(r":root \{([^}]*)\}", page(report))
    assert len(themes) == 3
    for theme in themes:
        colours = {
            name: value if len(value) == 7 else "#" + "".join(letter * 2 for letter in value[1:])
            for name, value in re.findall(r"--(\w+): (#\w+)", theme)
        }
        for name in ("ink", "quiet", "good", "bad"):
            for ground in ("paper", "band"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground, theme)


def test_white_on_the_badge_can_be_read(report: Report) -> None:
    for colour in re.findall(r'fill="(#\w{6})"', badge(report)):
        assert contrast(colour, "#ffffff") >= 4.5

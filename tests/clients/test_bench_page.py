"""The page of a benchmark in a real Chromium: drawn, pressed, tapped, printed, in light and dark, on a phone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from plugengine.bench.page import page
from plugengine.bench.results import Column, to_json
from tests.bench_runs import COLUMNS, HOSTILE, ROUNDS, bench_run
from tests.chromium import Chromium, Page, chromium
from tests.conftest import need_tool
from tests.waiting import PATIENCE_S

DRAWN = "document.querySelector('html.drawn') !== null"
DESKTOP = (1200, 900)
PHONE = (390, 844)
LEAST_TEXT_PX = 12
# WCAG 2.2, success criterion 1.4.3.
LEAST_CONTRAST = 4.5

# Every element that has words of its own and is seen, with their size on the screen and their contrast.
TEXTS = """(() => {
  const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = (colour) => {
    context.clearRect(0, 0, 1, 1); context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
    .map((part) => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4)
    .reduce((sum, part, index) => sum + part * [.2126, .7152, .0722][index], 0);
  const contrast = (one, other) => {
    const [high, low] = [light(rgb(one)), light(rgb(other))].sort((a, b) => b - a);
    return (high + .05) / (low + .05);
  };
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (rgb(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const heat = document.querySelector("[data-chart=heat]");
  const cells = [...heat.querySelectorAll(".layer_0_marks path")];
  const words = [...heat.querySelectorAll(".layer_1_marks text")];
  const below = new Map(words.map((word, index) => [word, cells[index]]));
  const found = [];
  for (const element of document.querySelectorAll("main *, dialog[open] *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const box = element.getBoundingClientRect();
    if (!own || !box.width || !box.height || element.closest("script, style")) continue;
    const style = getComputedStyle(element);
    const svg = element.ownerSVGElement;
    const shrunk = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    const cell = below.get(element) ?? (element.parentElement && below.get(element.parentElement));
    let behind = ground(svg ? svg.parentElement : element);
    if (cell && !getComputedStyle(cell).fill.startsWith("url")) behind = getComputedStyle(cell).fill;
    found.push({
      text: element.textContent.trim().slice(0, 40), tag: element.tagName, size: parseFloat(style.fontSize) * shrunk,
      contrast: contrast(svg ? style.fill : style.color, behind), cell: Boolean(cell),
    });
  }
  return found;
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium(need_tool("chromium")) as running:
        yield running


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "storage.html"
    path.write_text(page(bench_run()), encoding="utf-8")
    return path


@pytest.fixture
def shown(browser: Chromium, written: Path) -> Page:
    return show(browser, written)


def show(browser: Chromium, path: Path, *, size: tuple[int, int] = DESKTOP, mobile: bool = False) -> Page:
    tab = browser.page()
    tab.resize(*size, mobile=mobile)
    tab.prefer("light")
    tab.open(path, until=DRAWN)
    return tab


def middle(tab: Page, selector: str, index: int = 0) -> tuple[float, float]:
    """Bring an element into view and return where its middle is."""
    box = tab.evaluate(
        f"""(() => {{
          const element = document.querySelectorAll({selector!r})[{index}];
          element.scrollIntoView({{block: "center"}});
          const box = element.getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
    )
    return box[0], box[1]


def assert_opened(tab: Page, key: str) -> None:
    """Wait until the values of a workload are shown."""
    tab.wait(f"document.getElementById('values').open && document.getElementById('values').dataset.drawn === '{key}'")


def in_dialog(tab: Page, expression: str) -> Any:
    return tab.evaluate(f"(({{dialog}}) => {expression})({{dialog: document.getElementById('values')}})")


def test_it_is_drawn_without_a_word_on_the_console_and_without_asking_anybody(shown: Page, written: Path) -> None:
    assert shown.complaints == []
    assert set(shown.requests) == {written.as_uri()}


def test_every_chart_is_there_and_has_a_size(shown: Page) -> None:
    boxes = shown.evaluate(
        """[...document.querySelectorAll("main .chart[data-chart]")].map((chart) => {
          const box = chart.querySelector("svg").getBoundingClientRect();
          return [box.width, box.height, chart.querySelectorAll("svg path").length];
        })"""
    )
    assert len(boxes) == len(bench_run().workloads) + 2
    assert all(width > 200 and height > 80 and marks > 4 for width, height, marks in boxes)


def test_a_panel_has_a_bar_for_each_driver_that_was_measured(shown: Page) -> None:
    bars = shown.evaluate("document.querySelectorAll('[data-workload=w0] .layer_0_marks path').length")
    assert bars == len([column for column in COLUMNS if not column.reason])


def test_pressing_a_bar_shows_every_value_of_its_workload(shown: Page) -> None:
    shown.click(*middle(shown, "[data-workload=w8] .layer_0_marks path", 1))
    assert_opened(shown, "w8")
    assert in_dialog(shown, "dialog.querySelector('h2').textContent") == "Probe for absent names"
    measured = len([column for column in COLUMNS if not column.reason])
    points = "dialog.querySelectorAll('[data-chart=strip] .layer_2_marks path').length"
    assert in_dialog(shown, points) == measured * ROUNDS
    lines = "dialog.querySelectorAll('[data-chart=rounds] .mark-line path').length"
    assert in_dialog(shown, lines) == measured
    assert in_dialog(shown, "dialog.querySelectorAll('tbody tr').length") == len(COLUMNS)
    assert shown.complaints == []


def test_pressing_a_cell_of_the_map_shows_the_values_of_its_workload(shown: Page) -> None:
    # The second row: the first is the group's, with the means.
    shown.click(*middle(shown, "[data-chart=heat] .layer_0_marks path", len(COLUMNS) + 1))
    assert_opened(shown, "w0")
    assert in_dialog(shown, "dialog.querySelector('h2').textContent") == "Unpack a layer"


def test_pressing_the_mean_of_a_group_opens_nothing(shown: Page) -> None:
    shown.click(*middle(shown, "[data-chart=heat] .layer_0_marks path", 0))
    assert not in_dialog(shown, "dialog.open")


def test_a_failed_measurement_shows_the_values_it_had_and_its_reason(shown: Page) -> None:
    failed = next(index for index, each in enumerate(bench_run().workloads) if each.name == "mount-120")
    shown.click(*middle(shown, f"button[data-values=w{failed}]"))
    assert_opened(shown, f"w{failed}")
    assert "too many layers" in in_dialog(shown, "dialog.querySelector('tr.failed').textContent")
    points = "dialog.querySelectorAll('[data-chart=strip] .layer_2_marks path').length"
    assert in_dialog(shown, points) == 4 * ROUNDS + 2


def test_the_keyboard_opens_and_closes_the_values(shown: Page) -> None:
    shown.evaluate("document.querySelector('button[data-values=w3]').focus()")
    shown.press("Enter", 13)
    shown.call("Input.dispatchKeyEvent", type="char", text="\r")
    assert_opened(shown, "w3")
    shown.press("Escape", 27)
    shown.wait("!document.getElementById('values').open")


def test_a_finger_on_a_phone_opens_the_values(browser: Chromium, written: Path) -> None:
    tab = show(browser, written, size=PHONE, mobile=True)
    tab.tap(*middle(tab, "[data-workload=w2] .layer_0_marks path", 1))
    assert_opened(tab, "w2")
    assert in_dialog(tab, "dialog.scrollWidth <= dialog.clientWidth")
    assert tab.evaluate("document.documentElement.scrollWidth") == PHONE[0]
    assert tab.complaints == []


@pytest.mark.parametrize("width", [320, 390, 700, 1200])
def test_nothing_is_wider_than_the_screen(browser: Chromium, written: Path, width: int) -> None:
    tab = show(browser, written, size=(width, 844), mobile=width < 700)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate("Math.max(...[...document.querySelectorAll('svg')].map((e) => e.clientWidth))") <= width


@pytest.mark.parametrize(("size", "maps"), [(DESKTOP, 1), (PHONE, 2)], ids=["desktop", "phone"])
def test_the_words_in_the_map_stay_in_their_cells(
    browser: Chromium, tmp_path: Path, size: tuple[int, int], maps: int
) -> None:
    more = [Column(name=name) for name in ("fuse_union + none + v1", "docker", "podman", "a", "b", "c-" + "long" * 20)]
    path = tmp_path / "many.html"
    path.write_text(page(bench_run(columns=(*COLUMNS, *more))), encoding="utf-8")
    tab = show(browser, path, size=size, mobile=size == PHONE)
    widths = tab.evaluate(
        """[...document.querySelectorAll("[data-chart=heat] .layer_1_marks")].flatMap((marks) => {
          const cell = marks.parentElement.querySelector(".layer_0_marks path").getBoundingClientRect();
          return [...marks.querySelectorAll("text")].map((text) => text.getBoundingClientRect().width / cell.width);
        })"""
    )
    rows = len({each.group for each in bench_run().workloads}) + len(bench_run().workloads)
    assert len(widths) == (len(COLUMNS) + len(more)) * rows
    assert max(widths) <= 1
    assert tab.evaluate("document.querySelectorAll('[data-chart=heat] svg').length") == maps


def test_the_charts_follow_the_width_of_the_window(shown: Page) -> None:
    shown.resize(*PHONE)
    shown.wait("document.querySelector('[data-chart=heat] svg').getBoundingClientRect().width < 390")
    shown.wait("document.documentElement.scrollWidth === 390")
    shown.resize(*DESKTOP)
    shown.wait("document.querySelector('[data-chart=heat] svg').getBoundingClientRect().width > 1000")
    assert shown.complaints == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_can_be_read(browser: Chromium, written: Path, scheme: str, size: tuple[int, int]) -> None:
    tab = show(browser, written, size=size, mobile=size == PHONE)
    tab.prefer(scheme)
    texts = tab.evaluate(TEXTS)
    assert len([each for each in texts if each["cell"]]) > len(bench_run().workloads)
    assert [each for each in texts if each["size"] < LEAST_TEXT_PX] == []
    assert [each for each in texts if each["contrast"] < LEAST_CONTRAST] == []


def test_light_and_dark_are_changed_live(shown: Page) -> None:
    light = shown.screenshot()
    bar = "getComputedStyle(document.querySelector('[data-workload=w0] .layer_0_marks path')).fill"
    before = shown.evaluate(bar)
    shown.prefer("dark")
    assert shown.screenshot() != light
    assert shown.evaluate(bar) != before
    shown.prefer("light")
    assert shown.screenshot() == light


def test_it_prints_in_light_colours_whatever_the_screen_has(shown: Page) -> None:
    shown.prefer("dark")
    assert shown.pdf().startswith(b"%PDF-")
    shown.prefer("dark", medium="print")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert shown.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert shown.evaluate("[...document.querySelectorAll('button')].every((each) => !each.offsetWidth)")
    assert shown.complaints == []


def test_without_scripts_the_numbers_are_still_there(browser: Chromium, written: Path) -> None:
    tab = browser.page()
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.call("Page.navigate", url=written.as_uri())
    tab.wait("document.querySelectorAll('table.numbers td.value').length > 100")
    assert tab.evaluate("getComputedStyle(document.querySelector('button[data-values]')).display") == "none"


def test_the_page_for_the_documentation_comes_with_a_picture(tmp_path: Path) -> None:
    need_tool("chromium")
    results = tmp_path / "run.json"
    results.write_bytes(to_json(bench_run()))
    script = Path(__file__).parents[2] / "docs" / "generators" / "benchmark_page.py"
    subprocess.run([sys.executable, script, results, tmp_path / "out"], check=True, timeout=PATIENCE_S)
    assert "<h1>" in (tmp_path / "out" / "storage.html").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "storage.png").read_bytes().startswith(b"\x89PNG")


def test_strangers_words_stay_words(browser: Chromium, tmp_path: Path) -> None:
    run = bench_run(columns=(*COLUMNS, Column(name=HOSTILE, version=HOSTILE, options={HOSTILE: HOSTILE})))
    cells = [msgspec.structs.replace(cell, error=cell.error and HOSTILE) for cell in run.cells]
    title = msgspec.structs.replace(run.workloads[0], title=HOSTILE, sentence=HOSTILE, group=HOSTILE)
    run = msgspec.structs.replace(
        run, cells=tuple(cells), workloads=(title, *run.workloads[1:]), warnings=(HOSTILE,), command=("pe", HOSTILE)
    )
    path = tmp_path / "hostile.html"
    path.write_text(page(run), encoding="utf-8")
    tab = show(browser, path)
    tab.click(*middle(tab, "button[data-values=w0]"))
    assert_opened(tab, "w0")
    assert tab.complaints == []
    assert tab.events("Page.javascriptDialogOpening") == []
    assert tab.evaluate("document.scripts.length") == 3
    assert "<script>alert(1)</script>" in in_dialog(tab, "dialog.querySelector('h2').textContent")
    assert tab.evaluate("document.documentElement.scrollWidth") == DESKTOP[0]


def test_a_script_that_is_not_the_pages_own_is_not_run(shown: Page) -> None:
    shown.evaluate(
        """(() => {
          const script = document.createElement("script");
          script.textContent = "window.stranger = true";
          document.body.append(script);
        })()"""
    )
    assert shown.evaluate("window.stranger === undefined")

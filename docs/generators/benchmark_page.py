"""Write the page of a benchmark and its picture: `python docs/generators/benchmark_page.py RESULTS.json [DIRECTORY]`.

They are docs/benchmarks/KIND.html and KIND.png. The results are those of `pe bench KIND --json`.
The picture is the top of the page's overview, down to the table of all workloads, taken in Chromium.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from plugengine.bench.page import page
from plugengine.bench.results import from_json
from tests.chromium import chromium

TARGET = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "benchmarks")
WIDTH, HEIGHT = 1100, 900
MARGIN = 24
SCALE = 1.5  # sharp where a README shows it, and half the bytes of 2
PART = """(() => {
  const section = document.getElementById('overview').parentElement;
  const whole = section.getBoundingClientRect();
  const table = [...section.querySelectorAll('h3')].at(-1).getBoundingClientRect();
  return [whole.x, whole.y, whole.width, table.y - whole.y];
})()"""


def main(argv: Sequence[str]) -> None:
    """Write the page, and then its picture."""
    results, directory = argv[0], argv[1] if len(argv) > 1 else TARGET
    with open(results, "rb") as stream:
        run = from_json(stream.read(), results)
    os.makedirs(directory, exist_ok=True)
    target = os.path.join(directory, f"{run.kind}.html")
    with open(target, "w", encoding="utf-8") as out:
        out.write(page(run))
    with open(os.path.join(directory, f"{run.kind}.png"), "wb") as picture:
        picture.write(overview(target))


def overview(path: str) -> bytes:
    """Return a PNG of the top of a page's overview, in its light colours."""
    with chromium() as browser:
        shown = browser.page()
        shown.resize(WIDTH, HEIGHT)
        shown.prefer("light")
        shown.open(Path(path), until="document.querySelector('html.drawn') !== null")
        # What can be pressed is not said in a picture.
        shown.evaluate("document.documentElement.classList.remove('live')")
        x, y, width, height = shown.evaluate(PART)
        more = {"x": x - MARGIN / 2, "y": y, "width": width + MARGIN, "height": height}
        return shown.screenshot({**more, "scale": SCALE})


if __name__ == "__main__":
    main(sys.argv[1:])

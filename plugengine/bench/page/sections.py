"""The page's text, section by section; whatever comes from a run is escaped here."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from html import escape
from typing import Final

from plugengine.bench.page.data import shown_name
from plugengine.bench.page.figures import Figure, Figures, Mean, Row
from plugengine.bench.page.tables import means_table, numbers_table, versions
from plugengine.bench.page.words import better, clean, duration
from plugengine.bench.results import Run
from plugengine.bench.units import number, scale

_SUBJECTS: Final = {"storage": "Storage drivers", "start": "Start of containers", "net": "Network drivers"}
_PARTS: Final = (
    ("overview", "Overview"),
    ("workloads", "Workloads"),
    ("numbers", "All numbers"),
    ("failures", "Failures"),
    ("environment", "Environment"),
    ("reproduce", "Reproduce"),
)


def title(run: Run) -> str:
    """Return the page's title."""
    return f"{_SUBJECTS.get(run.kind, clean(run.kind))} measured against each other"


def text(value: str) -> str:
    """Return somebody's words for markup, in their own direction of writing."""
    return f"<bdi>{escape(clean(value))}</bdi>"


def body(figures: Figures, download: str) -> Iterator[str]:
    """Yield the whole body but its scripts; `download` is the address of the values."""
    run = figures.run
    yield "<main>"
    yield "<header>"
    yield f"<h1>{escape(title(run))}</h1>"
    yield f'<p class="quiet">{_lead(run)}</p>'
    yield from _warnings(figures)
    links = "".join(f'<li><a href="#{name}">{words}</a></li>' for name, words in _PARTS)
    yield f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
    yield "</header>"
    yield from _overview(figures)
    yield from _workloads(figures)
    yield f'<section aria-labelledby="numbers">{_heading("numbers")}'
    yield from numbers_table(figures)
    yield "</section>"
    yield from _failures(figures)
    yield from _environment(run)
    yield from _reproduce(run, download)
    yield "</main>"
    yield from _dialog()


def _heading(name: str) -> str:
    return f'<h2 id="{name}">{dict(_PARTS)[name]}</h2>'


def _lead(run: Run) -> str:
    place = {"container": "in containers", "direct": "directly on the mounts"}.get(run.place, clean(run.place))
    facts = [
        _time(run.started),
        f"{run.rounds} rounds in {duration(run.duration_s)}",
        place,
        f"Linux {clean(run.machine.kernel)}",
        clean(run.machine.cpu),
    ]
    return escape(" · ".join(fact for fact in facts if fact))


def _time(started: str) -> str:
    """Return an ISO 8601 time in UTC as people read it."""
    return clean(f"{started.removesuffix('Z').removesuffix('+00:00').replace('T', ' ')} UTC")


def _warnings(figures: Figures) -> Iterator[str]:
    run = figures.run
    found = [text(warning) for warning in run.warnings]
    if run.partial:
        found.insert(0, "Interrupted: these are the values measured until then.")
    failed = sum(1 for _ in figures.failures())
    if failed:
        words = "measurement" if failed == 1 else "measurements"
        found.append(f'{failed} {words} failed: see <a href="#failures">Failures</a>.')
    if found:
        items = "".join(f"<li>{each}</li>" for each in found)
        yield '<aside class="warnings" aria-labelledby="warnings"><h2 id="warnings">⚠ Warnings</h2>'
        yield f"<ul>{items}</ul></aside>"


def _overview(figures: Figures) -> Iterator[str]:
    base = text(figures.run.baseline)
    yield f'<section aria-labelledby="overview">{_heading("overview")}'
    yield f"<p>Cost compares with {base} in the same round: 2 means twice the time or memory, or half the throughput;"
    yield "below 1 is better.</p>"
    yield "<h3>Geometric mean of the costs</h3>"
    yield f'<div class="means"><figure>{_chart("means", _means_words(figures.means))}</figure>'
    yield from means_table(figures)
    yield "</div>"
    yield "<h3>Cost of every workload</h3>"
    yield from _key()
    yield "<figure>"
    yield _chart(
        "heat", "Map of the costs, a row for each workload and a column for each driver; all numbers are below."
    )
    yield '<figcaption class="live-only">Press a cell for the values of every round.</figcaption>'
    yield "</figure></section>"


def _means_words(means: Iterable[Mean]) -> str:
    said = [f"{mean.column.name} {number(mean.value)}" for mean in means if mean.value is not None]
    return f"Geometric means: {', '.join(said)}" if said else "No ratio to show."


def _key() -> Iterator[str]:
    yield '<ul class="key" aria-label="Key">'
    yield '<li>better, ¼ <span class="swatch scale"></span> 4, worse</li>'
    yield '<li><span class="swatch">=</span> no difference: 1 is within the 95 % interval</li>'
    yield '<li><span class="swatch">1.2?</span> too few rounds to tell</li>'
    yield '<li><span class="swatch failed">✕</span> failed</li>'
    yield '<li><span class="swatch none">–</span> not supported here</li>'  # noqa: RUF001 - a dash
    yield '<li><span class="swatch none">·</span> not measured, or nothing to compare with</li>'
    yield "</ul>"


def _chart(kind: str, words: str, workload: str = "") -> str:
    more = f' data-workload="{workload}"' if workload else ""
    return f'<div class="chart" data-chart="{kind}"{more} role="img" aria-label="{escape(clean(words))}"></div>'


def _workloads(figures: Figures) -> Iterator[str]:
    yield f'<section aria-labelledby="workloads">{_heading("workloads")}'
    yield "<p>Bars are medians, lines across their ends the 95 % interval, the dashed line the limit.</p>"
    for group, rows in figures.groups:
        yield f"<h3>{text(group or 'Workloads')}</h3>"
        yield '<div class="panels">'
        for row in rows:
            yield from _panel(row, figures.run)
        yield "</div>"
    yield "</section>"


def _panel(row: Row, run: Run) -> Iterator[str]:
    workload = row.workload
    notes = [each for each in (f"by {workload.tool}" if workload.tool else "", workload.note) if each]
    if workload.cold:
        notes.insert(0, "cold caches")
    said = f"{workload.title}: " + "; ".join(_said(row, figure, run) for figure in row.figures)
    yield '<figure class="panel">'
    yield f"<h4>{text(workload.title)}</h4>"
    yield f'<p class="sentence">{text(workload.sentence)}{"".join(f" · {text(note)}" for note in notes)}</p>'
    yield _chart("bars", said, row.key)
    label = escape(f"Every round of {clean(workload.title)}")
    yield (
        f'<figcaption class="foot"><span>{escape(clean(row.scale.unit))}, {better(workload)}</span>'
        f'<button class="live-only" type="button" data-values="{row.key}" aria-label="{label}">Every round</button>'
        "</figcaption></figure>"
    )


def _said(row: Row, figure: Figure, run: Run) -> str:
    value = row.scale.text(figure.median.value) if figure.median is not None else figure.state.value
    return f"{shown_name(figure.column, run)} {value}"


def _failures(figures: Figures) -> Iterator[str]:
    yield f'<section aria-labelledby="failures">{_heading("failures")}'
    missing = [column for column in figures.run.columns if column.reason]
    failures = list(figures.failures())
    if not missing and not failures:
        yield "<p>None: every workload was measured with every driver.</p>"
    if failures:
        yield "<dl>"
        for row, figure in failures:
            name = f"{text(figure.column.name)}, {text(row.workload.title)}"
            after = f" (after {len(figure.values)} rounds)" if figure.values else ""
            yield f'<dt>{name}</dt><dd class="why">{text(figure.reason)}{after}</dd>'
        yield "</dl>"
    if missing:
        yield "<h3>Not supported here</h3><dl>"
        yield from (f"<dt>{text(column.name)}</dt><dd>{text(column.reason)}</dd>" for column in missing)
        yield "</dl>"
    yield "</section>"


def _environment(run: Run) -> Iterator[str]:
    machine = run.machine
    memory = scale("B", [machine.memory_bytes]).text(machine.memory_bytes)
    rows = [
        ("Host", machine.host),
        ("Processor", f"{machine.cpu}, {machine.cores} cores"),
        ("Frequency", machine.governor and f"governor {machine.governor}"),
        ("Memory", memory),
        ("Virtual machine", machine.virtual),
        ("Kernel", f"Linux {machine.kernel}"),
        ("Filesystem", f"{machine.filesystem} at {machine.directory}"),
        ("Load", f"{machine.load_before:.2f} before, {machine.load_after:.2f} after"),
        ("Steal", f"{machine.steal_percent:.1f} % of processor time"),
        ("With", f"plugengine {machine.plugengine}, Python {machine.python}"),
        ("Image", run.image),
    ]
    yield f'<section aria-labelledby="environment">{_heading("environment")}<dl>'
    yield from (f"<dt>{name}</dt><dd>{text(value)}</dd>" for name, value in rows if value)
    yield "</dl><h3>Drivers</h3>"
    yield from versions(run)
    yield "</section>"


def _reproduce(run: Run, download: str) -> Iterator[str]:
    yield f'<section aria-labelledby="reproduce">{_heading("reproduce")}'
    yield f"<pre>{escape(shlex.join(clean(word) for word in run.command))}</pre>"
    yield f"<p>Seed {run.seed}: the order of the measurements, and the resampling for the intervals. {run.rounds}"
    yield f"rounds after {run.warmup} of warm-up; drivers and workloads came in random order in every round.</p>"
    yield "<p>Values are medians; intervals are 95 % percentile bootstrap intervals of the median, and of the median of"
    yield "the costs taken round by round. Where 1 is within a cost's interval the page says “no difference”.</p>"
    name = escape(f"pe-bench-{clean(run.kind)}.json")
    yield f'<p><a download="{name}" href="{download}">All values of this page as JSON</a>,'
    yield "for <code>pe bench compare</code>.</p>"
    yield "</section>"


def _dialog() -> Iterator[str]:
    yield '<dialog id="values" aria-labelledby="values-title"><header><h2 id="values-title"></h2>'
    yield '<button type="button" data-close>Close</button></header>'
    yield '<p class="sentence quiet"></p>'
    yield "<figure><h3>Every value, the median and its 95 % interval</h3>"
    yield f"{_chart('strip', 'Every value; the numbers are below.')}</figure>"
    yield "<figure><h3>In the order of the rounds</h3>"
    yield f"{_chart('rounds', 'Every value by round; the numbers are below.')}</figure>"
    yield '<h3>Numbers</h3><table class="numbers"></table></dialog>'

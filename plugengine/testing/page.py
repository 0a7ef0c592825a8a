"""A report as one web page that needs nothing else: for phones, screens of either colour, and paper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Final

from plugengine.testing.badge import badge
from plugengine.testing.outcome import Outcome, Verdict

if TYPE_CHECKING:
    from plugengine.testing.report import Report

_MARKS: Final = {
    Verdict.PASSED: "✓",
    Verdict.FAILED: "✗",
    Verdict.DEVIATING: "≠",
    Verdict.SKIPPED: "○",
    Verdict.LEFT_OUT: "·",
}
_HEADINGS: Final = (
    '<thead><tr><th scope="col">Case</th><th scope="col">Claim</th><th scope="col">Verdict</th>'
    '<th scope="col" class="time">Time</th></tr></thead>'
)
_STYLE: Final = """\
:root { color-scheme: light dark; --ink: #1f2328; --paper: #fff; --quiet: #57606a; --line: #d0d7de; --band: #f6f8fa;
  --good: #1a7f37; --bad: #c5221f; --partly: #9a6700; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --quiet: #9198a1; --line: #3d444d; --band: #161b22;
    --good: #4ac26b; --bad: #ff7b72; --partly: #d4a72c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; } .quiet, dt { color: var(--quiet); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 1rem 0; }
dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 600; font-size: .85rem; }
.group th { color: var(--ink); font-size: 1rem; padding-top: 1.2rem; }
td.time, th.time { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.verdict { white-space: nowrap; font-weight: 600; }
.passed td.verdict { color: var(--good); } .failed td.verdict { color: var(--bad); }
.skipped td.verdict, .left-out td { color: var(--quiet); }
.deviating td.verdict, .deviating .why, .deviation { color: var(--partly); }
code, pre { font: .85em/1.45 ui-monospace, SFMono-Regular, Menlo, monospace; }
code { overflow-wrap: anywhere; color: var(--quiet); }
pre { background: var(--band); border: 1px solid var(--line); border-radius: 6px; padding: .75rem; overflow-x: auto; }
a { color: inherit; }
.why { color: var(--bad); overflow-wrap: anywhere; } .left-out .why, .skipped .why { color: var(--quiet); }
summary { cursor: pointer; }
@media (max-width: 40rem) {
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .4rem; }
  thead { display: none; } tr { display: block; border-bottom: 1px solid var(--line); padding: .5rem 0; }
  td, .group th { display: block; border: 0; padding: .1rem 0; }
  td + td { display: inline-block; margin-right: 1rem; } td.time { color: var(--quiet); } }
@media print {
  :root { --ink: #000; --paper: #fff; --quiet: #444; --line: #999; --band: #fff; --good: #060; --bad: #a00;
    --partly: #630; }
  body { max-width: none; padding: 0; font-size: 9pt; }
  tr, dl { break-inside: avoid; } h2, .group { break-after: avoid; }
  pre { white-space: pre-wrap; } }
"""


def page(report: Report) -> str:
    """Return the page; every word of the report is escaped."""
    driver = report.driver
    title = f"{driver.kind} driver {driver.name}: conformance"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{_STYLE}</style>",
            f"<h1>{escape(title)}</h1>",
            f"<p>{escape(driver.summary)}</p>",
            f"<p>{badge(report)}</p>",
            f"<p><strong>{escape(report.summary)}</strong></p>",
            *_reasons(report.reasons),
            *_failures(report.failures),
            *_deviations(report.deviations),
            *_facts(report),
            *_tables(report.outcomes),
            "</html>",
            "",
        ]
    )


def _reasons(reasons: Iterable[str]) -> Iterator[str]:
    for reason in reasons:
        yield f'<p class="why">{escape(reason)}</p>'


def _failures(outcomes: Sequence[Outcome]) -> Iterator[str]:
    if outcomes:
        yield f'<p class="why">Failed: {_links(outcomes)}</p>'


def _deviations(declared: Mapping[str, Sequence[Outcome]]) -> Iterator[str]:
    """Yield what the driver says it does not do, and which cases fail for it."""
    for why, outcomes in declared.items():
        yield (
            f'<details class="deviation"><summary>Deviates: {escape(why)} ({len(outcomes)})</summary>'
            f"<p>{_links(outcomes)}</p></details>"
        )


def _links(outcomes: Iterable[Outcome]) -> str:
    return ", ".join(f'<a href="#{escape(outcome.id)}">{escape(outcome.id)}</a>' for outcome in outcomes)


def _facts(report: Report) -> Iterator[str]:
    driver, host = report.driver, report.host
    own = host.api_version
    given = " ".join(f"{name}={value}" for name, value in sorted(driver.options.items()))
    major, minor = driver.api_version
    rows = [
        ("Driver", f"{driver.name}, {driver.distribution} {driver.version}, written for API {major}.{minor}"),
        ("Claims", ", ".join(driver.capabilities) or "nothing beyond the contract"),
        ("Options", given),
        ("Tested", f"{report.started}, {report.duration_s:.1f} s, {report.jobs} at once"),
        ("Host", f"{host.system}, Linux {host.kernel}, {host.machine}, {host.processors} processors"),
        ("Filesystem", host.filesystem),
        (
            "With",
            f"plugengine {host.plugengine}, API {own[0]}.{own[1]}, Python {host.python}",
        ),
    ]
    yield "<dl>"
    for name, value in rows:
        if value:
            yield f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
    yield "</dl>"


def _tables(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Yield the cases that were tried, by group, and after them those that were not."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.id)
    for title, members in (
        ("Cases", [outcome for outcome in ordered if outcome.verdict is not Verdict.LEFT_OUT]),
        ("Left out", [outcome for outcome in ordered if outcome.verdict is Verdict.LEFT_OUT]),
    ):
        if members:
            yield f"<h2>{title}</h2>"
            yield "<table>"
            yield _HEADINGS
            for group, rows in groupby(members, key=_group):
                yield f'<tbody><tr class="group"><th colspan="4" scope="rowgroup">{escape(group)}</th></tr>'
                yield from (_row(outcome) for outcome in rows)
                yield "</tbody>"
            yield "</table>"


def _group(outcome: Outcome) -> str:
    """Return the subject of an id, "kind.subject.what"."""
    parts = outcome.id.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def _row(outcome: Outcome) -> str:
    time = "" if outcome.verdict is Verdict.LEFT_OUT else f"{outcome.duration_s:.2f} s"
    declared = (f"deviates: {outcome.deviation}",) if outcome.deviation else ()
    why = "".join(f'<div class="why">{escape(reason)}</div>' for reason in (*declared, *outcome.reasons))
    details = "".join(
        f"<details><summary>{name}</summary><pre>{escape(text)}</pre></details>"
        for name, text in (("Traceback", outcome.traceback), ("Log", outcome.log))
        if text
    )
    return (
        f'<tr class="{outcome.verdict.value}" id="{escape(outcome.id)}">'
        f"<td>{escape(outcome.sentence)}<br><code>{escape(outcome.id)}</code>{why}{details}</td>"
        f'<td>{escape(outcome.claim)}</td><td class="verdict">{_MARKS[outcome.verdict]} {outcome.verdict.words}</td>'
        f'<td class="time">{time}</td></tr>'
    )

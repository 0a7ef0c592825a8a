"""`pe drivers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from plugengine.cli.app import App
from plugengine.cli.command import command, option, switch
from plugengine.cli.formatting import show_rows
from plugengine.model import Option, OptionKind

if TYPE_CHECKING:
    from plugengine.plugins.probing import DriverStatus

HEADINGS: Final[Mapping[str, str]] = {
    "Kind": "KIND",
    "Name": "NAME",
    "Default": "DEFAULT",
    "Supported": "SUPPORTED",
    "Distribution": "DISTRIBUTION",
    "Version": "VERSION",
    "Summary": "SUMMARY",
    "Reasons": "REASONS",
    "Capabilities": "CAPABILITIES",
    "Degraded": "DEGRADED",
    "Options": "OPTIONS",
}
_COLUMNS: Final = ("Kind", "Name", "Default", "Supported", "Distribution", "Version", "Note")


@command(
    option("--format", metavar="TEMPLATE", help="table, json, or a Go template."),
    switch("-q", "--quiet", help="Names only."),
    switch("--options", help="Show the options of each driver."),
)
def drivers(app: App, *, format: str | None, quiet: bool, options: bool) -> None:  # noqa: A002 - the flag's name
    """List the drivers of every kind: where they come from, whether they work here and why not, and the defaults."""
    found = app.engine.drivers.list()
    if options and not format:
        for status in found:
            app.write(f"{status.kind} {status.name}: {status.summary}\n")
            for each in status.options:
                app.write(f"    {each.name}={each.default or ''}    {_kind(each)}: {each.help}\n")
        return
    lines: list[dict[str, Any]] = [
        {
            "Kind": status.kind,
            "Name": status.name,
            "Default": "*" if status.default else "",
            "Supported": "yes" if status.supported else "no",
            "Distribution": status.distribution,
            "Version": status.version,
            "Summary": status.summary,
            "Reasons": list(status.reasons),
            "Capabilities": list(status.capabilities),
            "Degraded": status.degraded,
            "Options": {each.name: each.default for each in status.options},
            "Note": _note(status),
        }
        for status in found
    ]
    show_rows(
        app.write,
        lines,
        columns=_COLUMNS,
        headings={**HEADINGS, "Note": "SUMMARY, OR WHY NOT"},
        template=format,
        quiet="Name" if quiet else None,
    )


def _note(status: DriverStatus) -> str:
    if not status.supported:
        return "; ".join(status.reasons)
    return f"degraded: {status.degraded}" if status.degraded else status.summary


def _kind(option: Option) -> str:
    """Return what the value of an option may be, in a few words."""
    if option.kind is OptionKind.CHOICE:
        return "|".join(option.choices)
    bounds = "" if option.least is None else f" from {option.least}"
    bounds += "" if option.most is None else f" to {option.most}"
    return f"{option.kind.value}{bounds}"

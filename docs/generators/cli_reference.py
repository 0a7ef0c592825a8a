"""Write docs/reference/cli.md from the commands themselves: `python docs/generators/cli_reference.py`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping

import click

from plugengine.cli.lazy import Entry, LazyGroup
from plugengine.cli.program import root

TARGET = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "reference", "cli.md")
_HEAD = """\
# The command line

Written by `docs/generators/cli_reference.py` from the commands themselves. Names and meanings are docker's where docker
has them. Switches take `=true` and `=false`; options in brackets show their default. Where a command takes another
program's words, options come before them.

Exit codes: the command's own for `run`, `start -a`, `attach` and `exec` (128 + n when a signal ended it); 1 when one of
several names failed; 2 when the command line is not understood; 125 when the engine or a driver failed; 126 when the
command cannot be executed; 127 when there is none of that name.
"""


def render() -> str:
    """Return the page."""
    with click.Context(root, info_name="pe") as ctx:
        parts = [_HEAD, *_sections(ctx, root)]
    return "\n".join(parts)


def _sections(ctx: click.Context, command: click.Command) -> Iterator[str]:
    yield _section(ctx, command)
    if isinstance(command, LazyGroup):
        for name, entry in _shown(ctx, command.entries).items():
            found = command.get_command(ctx, name)
            if found is not None and not entry.hidden:
                with click.Context(found, info_name=name, parent=ctx) as inner:
                    yield from _sections(inner, found)


def _shown(ctx: click.Context, entries: Mapping[str, Entry]) -> Mapping[str, Entry]:
    """Leave out the second names of commands that have a first."""
    return {} if ctx.command_path == "pe container" else entries


def _section(ctx: click.Context, command: click.Command) -> str:
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    lines = [f"## {ctx.command_path}", "", f"    {usage}", "", _prose(command.help or ""), ""]
    options = [param for param in command.params if isinstance(param, click.Option) and param.name != "help"]
    if options:
        lines += ["| option | |", "|---|---|", *(_row(option) for option in options), ""]
    if isinstance(command, LazyGroup):
        lines += ["| command | |", "|---|---|"]
        lines += [f"| `{name}` | {entry.help} |" for name, entry in command.entries.items() if not entry.hidden]
        lines.append("")
    if command.epilog:
        lines += [_prose(command.epilog), ""]
    return "\n".join(lines)


def _prose(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def _row(option: click.Option) -> str:
    names = ", ".join(sorted(option.opts, key=len))
    value = "" if option.is_flag else f" {option.metavar}"
    many = " (repeatable)" if option.multiple else ""
    return f"| `{_escape(names + value)}` | {_escape(option.help or '')}{many} |"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    with open(TARGET, "w", encoding="utf-8") as page:
        page.write(render())
    sys.stderr.write(f"wrote {TARGET}\n")

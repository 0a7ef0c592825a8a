"""Show rows as `--format` asks: a table for people, JSON, or a Go template."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from plugengine.cli.table import write_table

Row = Mapping[str, Any]


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return JSON text as docker writes it: as it is, without escapes for other alphabets."""
    import json

    if indent is None:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return json.dumps(value, ensure_ascii=False, indent=indent)


def show_rows(
    write: Callable[[str], object],
    rows: Iterable[Row],
    *,
    columns: Sequence[str],
    headings: Mapping[str, str],
    template: str | None,
    quiet: str | None = None,
) -> None:
    """Write rows.

    Args:
        write: Takes text.
        rows: Values by name.
        columns: The names shown in a table.
        headings: Of all names that may be shown.
        template: Of `--format`: None or "table", "json", a template, or "table TEMPLATE".
        quiet: Show this value alone.

    Raises:
        CommandLineError: The template is not understood, or names what is not there.
    """
    text = (template or "table").strip()
    if quiet is not None and text == "table":
        for row in rows:
            write(f"{row[quiet]}\n")
    elif text == "table":
        write_table(write, [headings[name] for name in columns], [[str(row[name]) for name in columns] for row in rows])
    elif text == "json":
        for row in rows:
            write(f"{to_json(row)}\n")
    elif text.startswith("table "):
        _template_table(write, rows, headings, text.removeprefix("table").strip())
    else:
        from plugengine.cli.gotemplate import Template

        found = Template(unescape(template or ""))
        for row in rows:
            write(f"{found.render(row)}\n")


def _template_table(
    write: Callable[[str], object], rows: Iterable[Row], headings: Mapping[str, str], text: str
) -> None:
    """Cells are what tabs divide; the heading of a cell is that of the field it shows."""
    from plugengine.cli.gotemplate import Template, columns_of

    cells = [Template(cell) for cell in unescape(text).split("\t")]
    titles = [" ".join(headings.get(name, name.upper()) for name in columns_of(cell)) for cell in cells]
    write_table(write, titles, [[cell.render(row) for cell in cells] for row in rows])


def unescape(text: str) -> str:
    """Turn backslash t and backslash n, as typed in a shell, into what they mean."""
    return text.replace("\\t", "\t").replace("\\n", "\n")

"""Write the JSON Schemas in docs/reference/ from the values they describe: `python docs/generators/schemas.py`."""

from __future__ import annotations

import inspect
import os
import sys
from typing import Any, Final

import msgspec

from plugengine.bench.results import Run
from plugengine.testing import Report

DIRECTORY: Final = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "reference")
SCHEMAS: Final[dict[str, type[msgspec.Struct]]] = {
    "bench-results.schema.json": Run,
    "conformance-report.schema.json": Report,
}


def render(name: str) -> str:
    """Return the content of one of `SCHEMAS`."""
    schema = dedented(msgspec.json.schema(SCHEMAS[name]))
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def dedented(schema: Any) -> Any:
    """Return a schema whose descriptions are docstrings without the indentation of the source.

    msgspec kept it until 0.22 and removes it since: the file must not depend on which one is installed.
    """
    if isinstance(schema, dict):
        return {
            key: inspect.cleandoc(value) if key == "description" and isinstance(value, str) else dedented(value)
            for key, value in schema.items()
        }
    return [dedented(each) for each in schema] if isinstance(schema, list) else schema


def main() -> None:
    """Write the files."""
    for name in SCHEMAS:
        target = os.path.join(DIRECTORY, name)
        with open(target, "w", encoding="utf-8") as stream:
            stream.write(render(name))
        sys.stderr.write(f"wrote {target}\n")


if __name__ == "__main__":
    main()

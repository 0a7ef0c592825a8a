"""Write docs/reference/bench-results.schema.json from the results themselves: `python docs/make_bench_schema.py`."""

from __future__ import annotations

import os

import msgspec

from plugengine.bench.results import Run

TARGET = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reference", "bench-results.schema.json")


def render() -> str:
    """Return the JSON Schema."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Run)), indent=2).decode() + "\n"


if __name__ == "__main__":
    with open(TARGET, "w", encoding="utf-8") as stream:
        stream.write(render())

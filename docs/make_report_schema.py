"""Write docs/reference/conformance-report.schema.json from the report itself: `python docs/make_report_schema.py`."""

from __future__ import annotations

import os

import msgspec

from plugengine.testing import Report

TARGET = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reference", "conformance-report.schema.json")


def main() -> None:
    """Write the file."""
    content = msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Report)), indent=2)
    with open(TARGET, "wb") as stream:
        stream.write(content + b"\n")


if __name__ == "__main__":
    main()

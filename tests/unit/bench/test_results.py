from __future__ import annotations

import json

import pytest

from plugengine.bench.results import Cell, Column, Machine, Run, Workload, from_json, to_json
from plugengine.errors import UsageError

MACHINE = Machine(
    host="h", kernel="6.1", cpu="c", cores=2, memory_bytes=1, filesystem="ext4", directory="/d", python="3.11",
    plugengine="0.1.0",
)  # fmt: skip
RUN = Run(
    kind="storage",
    started="2026-01-01T00:00:00Z",
    duration_s=1.5,
    seed=1,
    rounds=2,
    warmup=1,
    baseline="a",
    command=("pe", "bench", "storage"),
    place="container",
    machine=MACHINE,
    columns=(Column(name="a"), Column(name="b", reason="no such kernel")),
    workloads=(Workload(name="w", title="W", sentence="does w", group="data", unit="s"),),
    cells=(
        Cell(workload="w", column="a", values=(1.0, 2.0, 3.0), rounds=(0, 1, 2)),
        Cell(workload="w", column="b", values=(4.0, 9.0), rounds=(2, 0), error="round 1: killed"),
    ),
)


def test_a_document_is_read_as_it_was_written() -> None:
    assert from_json(to_json(RUN), "f") == RUN


def test_pairs_are_of_the_rounds_both_have() -> None:
    assert RUN.pairs("w", "b", "a") == ((4.0, 9.0), (3.0, 1.0))


def test_a_cell_that_was_not_measured_says_so() -> None:
    assert RUN.cell("w", "c").error == "not measured"


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"schema": 99}', b'{"schema": 1}', b'{"schema": 1, "kind": 3}'])
def test_what_is_no_document_of_this_schema_is_refused(text: bytes) -> None:
    with pytest.raises(UsageError, match="results f"):
        from_json(text, "f")


def test_another_schema_names_both() -> None:
    raw = {**json.loads(to_json(RUN)), "schema": 2}
    with pytest.raises(UsageError, match="schema 2, this version reads 1"):
        from_json(json.dumps(raw).encode(), "f")

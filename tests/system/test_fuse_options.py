"""Options and statistics of the storage driver `fuse_union`, through `pe`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import Pe
from tests.system.conftest import Start

MIB = 1 << 20


def test_a_container_with_a_size_and_a_trace_is_held_to_them_and_counted(pe: Pe, start: Start, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    options = ("--storage-opt", "size=8m", "--storage-opt", f"trace={trace}")
    name = start("--storage", "fuse_union", *options, "host:base", "sleep", "1000")
    filled = pe("exec", name, "sh", "-c", "head -c 20000000 /dev/zero > /big")
    assert filled.returncode != 0
    assert "No space left on device" in filled.stderr
    assert 7 * MIB < int(pe("exec", name, "stat", "-c", "%s", "/big", check=True).stdout) <= 8 * MIB
    pe("exec", name, "sh", "-c", "rm /big; echo room > /small", check=True)
    found = json.loads(pe("inspect", name, check=True).stdout)[0]["DriverStats"]
    assert found["requests"] >= found["requests_lookup"] > 0
    assert 7 * MIB < found["written_bytes"] <= 9 * MIB
    assert 0 < found["rss_bytes"] < 64 * MIB
    row = json.loads(pe("stats", "--no-stream", "--format", "json", name, check=True).stdout)
    assert row["DriverStats"]["requests"] > found["requests"] - 1
    pe("stop", "-t", "0", name, check=True)
    assert json.loads(pe("inspect", name, check=True).stdout)[0]["DriverStats"] == {}
    events = [json.loads(line) for line in trace.read_text().splitlines()]
    assert any(event["op"] == "exec" and event["path"].endswith("/sleep") for event in events)

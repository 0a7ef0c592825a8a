"""What observers are told of a container, in order, by whichever process does it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system.packages import Package
from tests.system.test_bad_drivers import Plugged, plug
from tests.system.test_bad_input import NONE
from tests.waiting import PATIENCE_S

WRITER = """
import json, os
from plugengine.hookspecs import hookimpl
from plugengine.model import encode

@hookimpl
def pe_event(event):
    with open(os.environ["EVENTS"], "a") as stream:
        stream.write(json.dumps(encode(event)) + "\\n")
"""
SLOW = "import time\nfrom plugengine.hookspecs import hookimpl\n@hookimpl\ndef pe_event(event):\n    time.sleep(60)\n"


@pytest.fixture
def watched(pe: Pe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugged:
    monkeypatch.setenv("EVENTS", str(tmp_path / "events"))
    writer = Package(name="pe-test-writer", source=WRITER, points={"plugengine.hooks:writer": "pe_test_writer"})
    return plug(pe, tmp_path / "packages", [writer])


def told() -> list[dict[str, str]]:
    """Return the events as flat objects."""
    lines = Path(os.environ["EVENTS"]).read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert events == sorted(events, key=lambda event: int(event["time_ns"]))
    return [{"action": event["action"], **event["detail"]} for event in events]


def test_a_whole_life_is_told_in_order(watched: Plugged) -> None:
    watched("run", "--rm", "--name", "watched", *NONE, "host:base", "sh", "-c", "exit 3")
    events = told()
    steps = [event for event in events if event["action"].startswith("step-")]
    assert [event["action"] for event in events if event not in steps] == ["create", "start", "die", "remove"]
    assert events[0] == {"action": "create", "name": "watched", "image": "host:base"}
    assert {"action": "die", "exit_code": "3"} in events
    begun = [(event["step"], event["undo"]) for event in steps if event["action"] == "step-begin"]
    ended = [(event["step"], event["undo"]) for event in steps if event["action"] == "step-end"]
    assert begun == ended
    up = [step for step, undo in begun if undo == "false"]
    assert [step for step, undo in begun if undo == "true"] == up[::-1]
    assert {"cgroup", "mount", "create"} <= set(up)
    assert events.index({"action": "start"}) > max(events.index(event) for event in steps if event["undo"] == "false")


def test_a_stop_is_told_with_its_signal(watched: Plugged) -> None:
    watched("run", "-d", "--name", "asked", *NONE, "host:base", "sleep", "60", check=True)
    watched("stop", "-t", "1", "asked", check=True)
    watched("rm", "asked", check=True)
    plain = [event for event in told() if not event["action"].startswith("step-")]
    assert [event["action"] for event in plain] == ["create", "start", "stop", "die", "remove"]
    assert plain[2] == {"action": "stop", "name": "asked", "signal": "15"}


def test_a_container_that_cannot_start_is_told_with_the_steps_taken_back(watched: Plugged) -> None:
    watched("run", "--name", "never", *NONE, "host:base", "/no/such/program")
    watched("rm", "never", check=True)
    events = told()
    assert [event["action"] for event in events if not event["action"].startswith("step-")] == ["create", "remove"]
    assert [event for event in events if event.get("undo") == "true"]


def test_an_observer_that_does_not_return_holds_nothing_up_for_ever(pe: Pe, tmp_path: Path) -> None:
    slow = Package(name="pe-test-slow", source=SLOW, points={"plugengine.hooks:slow": "pe_test_slow"})
    plugged = plug(pe, tmp_path / "packages", [slow])
    plugged("create", "--name", "held", *NONE, "host:base", "true", check=True, timeout=PATIENCE_S)
    assert pe("rm", "held").returncode == 0

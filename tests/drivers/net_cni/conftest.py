"""Every test has plugins, a ledger and a network namespace of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from plugengine_net_cni import ledger

from tests.conftest import need_root
from tests.drivers.net_bridge.world import Namespace
from tests.drivers.net_cni.world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A place for plugins; descriptors are counted before and after."""
    need_root()
    monkeypatch.setattr(ledger, "DIRECTORY", str(tmp_path / "ledger"))
    before = set(os.listdir("/proc/self/fd"))
    made = World(tmp_path)
    host = Namespace()
    with closing(host), closing(made), host.inside():
        yield made
    assert set(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"

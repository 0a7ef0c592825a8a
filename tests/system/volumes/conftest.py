"""A state database and roots of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugengine.model import HostPath
from plugengine.state.locations import Locations
from plugengine.state.state import State
from tests.conftest import need_root
from tests.system.kernel.conftest import in_mount_namespace as in_mount_namespace


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


@pytest.fixture
def locations(tmp_path: Path) -> Locations:
    found = Locations(HostPath(str(tmp_path / "root")), HostPath(str(tmp_path / "run")))
    found.ensure()
    return found


@pytest.fixture
def state(locations: Locations) -> State:
    return State(locations.root)


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """Return a directory that stands for a container's mounted root."""
    path = tmp_path / "rootfs"
    (path / "srv" / "data").mkdir(parents=True)
    return path

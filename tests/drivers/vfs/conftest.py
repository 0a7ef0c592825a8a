"""Stores on filesystems with and without shared blocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need_root
from tests.drivers.filesystems import SHARING, Store, mounted
from tests.system.kernel.conftest import in_mount_namespace as in_mount_namespace


@pytest.fixture(scope="session", params=["ext4", *SHARING])
def point(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of a new filesystem."""
    with mounted(request.param, tmp_path_factory.mktemp(request.param)) as root:
        yield root


@pytest.fixture
def store(point: Path, request: pytest.FixtureRequest) -> Store:
    """A layer store on it."""
    return Store(point / request.node.name, "vfs")


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()

"""A btrfs in a file, stores on it, and an engine whose root is on one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Pe, need_root
from tests.drivers.filesystems import Store, engine_on, load_layered, mounted
from tests.system.kernel.conftest import in_mount_namespace as in_mount_namespace


@pytest.fixture(scope="session")
def point(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of a new btrfs."""
    with mounted("btrfs", tmp_path_factory.mktemp("btrfs")) as root:
        yield root


@pytest.fixture
def store(point: Path, request: pytest.FixtureRequest) -> Store:
    """A layer store on it."""
    return Store(point / request.node.name, "btrfs")


@pytest.fixture(scope="session")
def engine_point(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of another one, where an engine is."""
    with mounted("btrfs", tmp_path_factory.mktemp("engine")) as root:
        yield root


@pytest.fixture(scope="session")
def engine(engine_point: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pe]:
    """The real `pe` there, with `host:base` and an image `layered` of twenty layers."""
    base = tmp_path_factory.mktemp("run")
    with engine_on(engine_point, base / "run") as pe:
        load_layered(pe, "layered:1", base)
        yield pe


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()

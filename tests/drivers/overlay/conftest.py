"""One container's storage by the overlay driver, mounted by the engine's own code in a child's namespace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import plugengine_overlay as driver
import pytest

from plugengine import mounts
from plugengine.model import Change, Record, StorageRequest
from plugengine.trees import upper as trees_upper
from tests.conftest import need_root
from tests.drivers.filesystems import Store
from tests.system.kernel.conftest import in_mount_namespace as in_mount_namespace

InChild = Callable[[Callable[[], Any]], Any]


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", "overlay")


def mount(request: StorageRequest, record: Record) -> Path:
    """Mount as the monitor does; only in a namespace of one's own."""
    rootfs = driver.pe_storage_mounts(request, record)
    assert rootfs.server is None
    for each in rootfs.mounts:
        mounts.perform(each)
    return Path(request.target)


def changes(request: StorageRequest, record: Record) -> list[str]:
    """Return the changes, one line each."""

    def line(change: Change) -> str:
        return f"{change.kind} {change.path}"

    upper = driver.pe_storage_upper(request, record)
    return [line(change) for change in trees_upper.changes(upper.directory, request.chain, upper.user_map)]

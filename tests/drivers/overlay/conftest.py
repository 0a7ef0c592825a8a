"""One container's storage by the overlay driver, mounted by the engine's own code in a child's namespace."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import plugengine_overlay as driver
import pytest

from plugengine import mounting
from plugengine.model import Change, HostPath, Record, StorageRequest, UserMap
from tests.conftest import need_root
from tests.system.kernel.conftest import in_mount_namespace as in_mount_namespace

InChild = Callable[[Callable[[], Any]], Any]


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


class Store:
    """A layer store and containers on it, below one directory."""

    def __init__(self, base: Path) -> None:
        self.base = base
        (base / "layers").mkdir(parents=True)
        os.chmod(base, 0o755)

    def layer(self, name: str, files: Mapping[str, str] | None = None) -> HostPath:
        """Make a layer with these files."""
        path = self.base / "layers" / name
        path.mkdir()
        for file, text in (files or {}).items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_text(text)
        return HostPath(str(path))

    def request(
        self,
        *chain: HostPath,
        options: Mapping[str, str] | None = None,
        user_map: UserMap | None = None,
        read_only: bool = False,
        name: str = "c1",
    ) -> StorageRequest:
        """Return the request of one container, whose directories exist as the core makes them."""
        directory, target = self.base / name / "overlay", self.base / name / "root"
        directory.mkdir(parents=True, exist_ok=True)
        target.mkdir(exist_ok=True)
        return StorageRequest(
            container_id=name,
            chain=chain,
            directory=HostPath(str(directory)),
            target=HostPath(str(target)),
            options=options or {},
            user_map=user_map,
            read_only=read_only,
        )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def mount(request: StorageRequest, record: Record) -> Path:
    """Mount as the monitor does; only in a namespace of one's own."""
    rootfs = driver.pe_storage_mounts(request, record)
    assert rootfs.server is None
    for each in rootfs.mounts:
        mounting.perform(each)
    return Path(request.target)


def changes(request: StorageRequest, record: Record) -> list[str]:
    """Return the changes, one line each."""

    def line(change: Change) -> str:
        return f"{change.kind} {change.path}"

    return [line(change) for change in driver.pe_storage_changes(request, record)]

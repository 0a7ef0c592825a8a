"""A writable layer that goes with its container need not be synced."""

from __future__ import annotations

from pathlib import Path

import msgspec
import plugengine_overlay

from plugengine.model import HostPath, StorageRequest
from tests.drivers.options import values


def options_of(request: StorageRequest) -> list[str]:
    """Return the option names of the overlay."""
    record = plugengine_overlay.pe_storage_prepare(request=request)
    rootfs = plugengine_overlay.pe_storage_mounts(request=request, record=record)
    return [key for key, _value in rootfs.mounts[-1].options]


def test_only_an_ephemeral_layer_is_volatile(tmp_path: Path) -> None:
    for name in ("layer", "own", "target"):
        (tmp_path / name).mkdir()
    request = StorageRequest(
        container_id="c" * 64,
        chain=(HostPath(str(tmp_path / "layer")),),
        directory=HostPath(str(tmp_path / "own")),
        target=HostPath(str(tmp_path / "target")),
        options=values(plugengine_overlay.pe_storage_info()),
    )
    assert "volatile" not in options_of(request)
    assert "volatile" in options_of(msgspec.structs.replace(request, ephemeral=True))

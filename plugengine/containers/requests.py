"""What the drivers of a container are asked with: its description and records as requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from plugengine.bundle import RuntimeRequest
from plugengine.model import CgroupRequest, HostPath, StorageRequest, UserMap
from plugengine.site import Site
from plugengine.state.container_rows import ContainerRow


def storage_request(
    site: Site, row: ContainerRow, records: Mapping[str, Any], *, read_only: bool = False
) -> StorageRequest:
    """Return the request every storage verb of a container gets.

    A container whose root is read-only for its guest has a writable one, too: the engine makes mount points there.
    """
    user_map = records.get("user_map")
    return StorageRequest(
        container_id=row.id,
        chain=tuple(HostPath(layer) for layer in records.get("layers", ())),
        directory=site.locations.storage(row.id, row.choice.storage),
        target=site.locations.rootfs(row.id),
        shared=site.locations.shared_by(row.choice.storage),
        options=row.choice.storage_options,
        user_map=msgspec.convert(user_map, UserMap) if user_map else None,
        written_by=records.get("written_by") or "",
        ephemeral=row.spec.auto_remove,
        read_only=read_only,
    )


def cgroup_request(site: Site, row: ContainerRow) -> CgroupRequest:
    """Return the request every verb of a container's control group gets."""
    return CgroupRequest(
        container_id=row.id,
        parent=row.spec.cgroup_parent,
        owner=site.host.root,
        options=row.choice.cgroup_options,
    )


def runtime_request(site: Site, row: ContainerRow) -> RuntimeRequest:
    """Return the request every verb of a container's runtime gets."""
    return RuntimeRequest(
        container_id=row.id,
        directory=site.locations.runtime(row.id),
        shared=site.locations.shared_by_runtime(row.choice.runtime),
        options=row.choice.runtime_options,
    )

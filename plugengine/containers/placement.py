"""Settle where a container's ids and mounts are on the host; nothing is taken or made."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from msgspec import Struct

from plugengine import volumes
from plugengine.errors import NotFoundError, UsageError
from plugengine.model import GuestPath, HostPath, IdRange, UserMap
from plugengine.site import Site
from plugengine.spec import ContainerSpec, Image, VolumeMount
from plugengine.state import id_ranges
from plugengine.state.names import check_name, new_id


class PlacedMount(Struct, frozen=True, kw_only=True):
    """One mount of a container with its place on the host settled; kept in the records."""

    type: str  # bind, volume, tmpfs
    target: GuestPath
    source: HostPath = HostPath("")  # empty for tmpfs
    name: str = ""  # of the volume
    subpath: str = ""  # in the volume; looked up at each start
    anonymous: bool = False
    read_only: bool = False
    propagation: str = "rprivate"
    recursive: bool = True
    fill: bool = False  # an empty volume gets the image's content
    options: tuple[tuple[str, str | None], ...] = ()


def place_user_map(site: Site, userns: str) -> UserMap | None:
    """Return the ids of a container's user namespace: those asked for, the next that are free, None for the host's.

    Raises:
        UsageError: They can't be.
        ConflictError: Another container has some of them, or none are free.
    """
    if userns in ("", "host"):
        return None
    if userns == "auto":
        return id_ranges.next_free(site.state)
    try:
        uid, gid, size = (int(part) for part in userns.split(":"))
    except ValueError:
        raise UsageError(f"--userns {userns}: not host, auto or <uid>:<gid>:<size>") from None
    if min(uid, gid, size) <= 0 or max(uid, gid) + size >= 2**32:
        raise UsageError(f"--userns {userns}: ids and size must be above 0 and end below 4294967295")
    chosen = UserMap(uids=(IdRange(guest=0, host=uid, size=size),), gids=(IdRange(guest=0, host=gid, size=size),))
    id_ranges.check_free(site.state, chosen)
    return chosen


def place_mounts(site: Site, spec: ContainerSpec, image: Image) -> tuple[PlacedMount, ...]:
    """Return the mounts asked for and those of the image's volumes; anonymous volumes have got a name.

    Raises:
        UsageError: A mount that can't be.
        NotFoundError: A directory of the host that is not there, and is not to be made.
    """
    targets = {os.path.normpath(mount.target) for mount in spec.mounts}
    if len(targets) != len(spec.mounts):
        raise UsageError("mounts: two of them have the same target")
    of_image = [
        VolumeMount(type="volume", target=path)
        for path in image.config.volumes
        if os.path.normpath(path) not in targets
    ]
    return tuple(_place(site, mount) for mount in (*spec.mounts, *of_image))


def _place(site: Site, mount: VolumeMount) -> PlacedMount:
    if not mount.target.startswith("/") or os.path.normpath(mount.target) == "/":
        raise UsageError(f"mount {mount.target or '(empty)'}: the target must be an absolute path other than /")
    common: dict[str, Any] = {
        "type": mount.type,
        "target": GuestPath(os.path.normpath(mount.target)),
        "read_only": mount.read_only,
        "propagation": mount.propagation,
        "recursive": mount.recursive,
        "options": mount.options,
    }
    if mount.type == "tmpfs":
        return PlacedMount(**common)
    if mount.type == "bind":
        return PlacedMount(**common, source=_bind_source(mount))
    if mount.type != "volume":
        raise UsageError(f"mount type {mount.type}: not bind, volume or tmpfs")
    name = check_name(mount.source, what="volume") if mount.source else new_id()
    return PlacedMount(
        **common,
        source=site.locations.volume_data(name),
        name=name,
        subpath=volumes.check_subpath(mount.source, mount.subpath) if mount.subpath else "",
        anonymous=not mount.source,
        fill=not mount.no_copy and not mount.subpath,
    )


def _bind_source(mount: VolumeMount) -> HostPath:
    if not os.path.isabs(mount.source):
        raise UsageError(f"bind {mount.source}: the source must be an absolute path")
    if not os.path.lexists(mount.source) and not mount.create_source:
        raise NotFoundError(f"bind {mount.source}: no such file or directory on the host")
    return HostPath(mount.source)


def mounts_of(records: Any) -> tuple[PlacedMount, ...]:
    """Return the mounts in a container's records."""
    return msgspec.convert(records.get("mounts") or (), tuple[PlacedMount, ...])


def user_map_of(records: Any) -> UserMap | None:
    """Return the map of ids in a container's records; None: the host's."""
    stored = records.get("user_map")
    return msgspec.convert(stored, UserMap) if stored else None

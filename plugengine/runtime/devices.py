"""Plan the device nodes of a container: docker's usual ones, those asked for, or all of the host's."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from plugengine.bundle import DeviceNode
from plugengine.errors import NotFoundError
from plugengine.model import GuestPath, HostPath
from plugengine.runtime.mounts import normal
from plugengine.runtime.request import InsideRequest
from plugengine.security import devices

_DEV: Final = "/dev"


def plan_devices(request: InsideRequest) -> tuple[DeviceNode, ...]:
    """Return the nodes, each path once; looks at the host's.

    Raises:
        NotFoundError: One asked for is not there, or no device.
    """
    found = {node.path: node for node in _usual()}
    for device in request.devices:
        for node in _expand(device.host, normal(device.guest)):
            found[node.path] = node
    if request.spec.privileged:
        for node in _expand(HostPath(_DEV), GuestPath(_DEV)):
            found.setdefault(node.path, node)
    return tuple(found.values())


def _usual() -> Iterator[DeviceNode]:
    for node in devices.NODES:
        host = HostPath(node.path)
        yield DeviceNode(path=node.path, type="c", major=node.major, minor=node.minor, mode=node.mode, host=host)


def _expand(host: HostPath, guest: GuestPath) -> Iterator[DeviceNode]:
    try:
        for path, target in devices.devices_below(os.fsencode(host), os.fsencode(guest)):
            yield _node(HostPath(os.fsdecode(path)), GuestPath(os.fsdecode(target)))
    except FileNotFoundError:
        raise NotFoundError(f"device {host}: no such device on this host") from None


def _node(host: HostPath, guest: GuestPath) -> DeviceNode:
    found = os.stat(host)
    if stat.S_ISCHR(found.st_mode):
        kind = "c"
    elif stat.S_ISBLK(found.st_mode):
        kind = "b"
    else:
        raise NotFoundError(f"device {host}: not a character or block device")
    return DeviceNode(
        path=guest,
        type=kind,
        major=os.major(found.st_rdev),
        minor=os.minor(found.st_rdev),
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        host=host,
    )

"""From a bundle to the steps of the child, in the only order that works; pure."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from msgspec import Struct
from plugengine.bundle import Bundle, DeviceNode, GuestMount
from plugengine.kernel.mount import MOUNT_ATTR_RDONLY, MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE
from plugengine.model import GuestPath, UserMap
from plugengine.mounts import attributes

from plugengine_runtime_native.steps import (
    AttachRoot,
    BindNodes,
    GuestStep,
    MakeConsole,
    MakeDirectory,
    MakeLinks,
    MakeNodes,
    MakePrivate,
    MaskPath,
    MountNew,
    MountTmpfs,
    MountTree,
    Node,
    Parameters,
    PivotRoot,
    ReadOnlyMount,
    ReadOnlyPath,
    SetNames,
    WriteSysctl,
)

_PROPAGATION: Final = {"private": MS_PRIVATE, "slave": MS_SLAVE, "shared": MS_SHARED}
_KINDS: Final = {"c": stat.S_IFCHR, "b": stat.S_IFBLK}
_DEV: Final = GuestPath("/dev")
_TERMINALS: Final = frozenset({_DEV, GuestPath("/dev/pts")})


class InsidePlan(Struct, frozen=True, kw_only=True):
    """What the child does before it becomes the command."""

    steps: tuple[GuestStep, ...]
    user_map: UserMap | None = None

    @property
    def has_user_namespace(self) -> bool:
        """Tell whether the container has a user namespace of its own."""
        return self.user_map is not None


def plan_inside(bundle: Bundle) -> InsidePlan:
    """Return the steps that turn a mounted root filesystem into the inside of a container."""
    return InsidePlan(steps=tuple(_steps(bundle)), user_map=bundle.namespaces.user_map)


def _steps(bundle: Bundle) -> Iterator[GuestStep]:
    yield MakePrivate()
    yield AttachRoot(source=os.fsencode(bundle.root))
    yield from _mounts(bundle)
    if bundle.hostname is not None:
        yield SetNames(hostname=os.fsencode(bundle.hostname), domainname=os.fsencode(bundle.domainname))
    for sysctl in bundle.sysctls:
        yield WriteSysctl(path=os.fsencode(sysctl.path), value=os.fsencode(sysctl.value), optional=sysctl.optional)
    if bundle.process.cwd != "/":
        yield MakeDirectory(path=os.fsencode(bundle.process.cwd))
    for path in bundle.read_only_paths:
        yield ReadOnlyPath(path=os.fsencode(path))
    for path in bundle.masked_paths:
        yield MaskPath(path=os.fsencode(path))
    if bundle.read_only:
        yield ReadOnlyMount(path=b"/")
    yield PivotRoot()


def _mounts(bundle: Bundle) -> Iterator[GuestStep]:
    """Yield our own mounts with the devices, then the terminal, then the mounts of the caller, which may cover any."""
    later: list[ReadOnlyMount] = []
    own = [each for each in bundle.mounts if not each.follow]
    for each in own:
        attribute_bits = attributes(each.flags)
        if each.fstype == "tmpfs" and attribute_bits & MOUNT_ATTR_RDONLY:
            # Mount points are still to be made in it.
            attribute_bits &= ~MOUNT_ATTR_RDONLY
            later.append(ReadOnlyMount(path=os.fsencode(each.target)))
        yield _mount(each, attribute_bits)
        if each.target == _DEV:
            yield from _nodes(bundle)
    yield from later
    if bundle.process.terminal:
        yield MakeConsole(bind={each.target for each in own} >= _TERMINALS)
    for each in bundle.mounts:
        if each.follow:
            yield _mount(each, attributes(each.flags))


def _mount(each: GuestMount, attribute_bits: int) -> GuestStep:
    target = os.fsencode(each.target)
    if each.fstype == "bind":
        return MountTree(
            source=os.fsencode(each.source),
            target=target,
            attributes=attribute_bits,
            propagation=_PROPAGATION[each.propagation],
            recursive=bool(each.flags & MS_REC),
            follow=each.follow,
            user_map=each.user_map,
            volume=os.fsencode(each.volume),
            subpath=os.fsencode(each.subpath),
        )
    parameters = _parameters(each)
    if each.fstype == "tmpfs" and each.follow:
        return MountTmpfs(target=target, attributes=attribute_bits, parameters=parameters)
    return MountNew(
        fstype=os.fsencode(each.fstype),
        target=target,
        attributes=attribute_bits,
        parameters=parameters,
        optional=each.optional,
    )


def _parameters(each: GuestMount) -> Parameters:
    named = (("source", each.source), *each.options) if each.source else each.options
    return tuple((os.fsencode(key), None if value is None else os.fsencode(value)) for key, value in named)


def _nodes(bundle: Bundle) -> Iterator[GuestStep]:
    if bundle.devices and bundle.namespaces.user_map is not None:
        yield BindNodes(nodes=tuple((os.fsencode(node.host), os.fsencode(node.path)) for node in bundle.devices))
    elif bundle.devices:
        yield MakeNodes(nodes=tuple(_node(node) for node in bundle.devices))
    if bundle.links:
        yield MakeLinks(links=tuple((os.fsencode(path), os.fsencode(target)) for path, target in bundle.links))


def _node(node: DeviceNode) -> Node:
    return Node(
        os.fsencode(node.path), _KINDS[node.type] | node.mode, os.makedev(node.major, node.minor), node.uid, node.gid
    )

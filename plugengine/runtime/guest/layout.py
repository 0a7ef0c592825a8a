"""Plan the inside of a container: its mounts, devices and names, as steps in order; pure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from plugengine.errors import UsageError
from plugengine.kernel.mount import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
)
from plugengine.model import Mount, UserMap, host_id
from plugengine.mounts import attributes
from plugengine.runtime.guest.environment import working_directory
from plugengine.runtime.guest.request import GuestRequest
from plugengine.runtime.guest.steps import (
    AttachRoot,
    CopyDevices,
    GuestStep,
    MakeConsole,
    MakeDirectory,
    MakeLinks,
    MakeNodes,
    MakePrivate,
    MaskPath,
    MountNew,
    MountTree,
    Node,
    PivotRoot,
    ReadOnlyMount,
    ReadOnlyPath,
    SetNames,
)
from plugengine.runtime.guest.sysctls import plan_sysctls
from plugengine.runtime.guest.volumes import normal, plan_mounts
from plugengine.security import devices, paths

CGROUP: Final = "/sys/fs/cgroup"
_CLOSED: Final = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
_DEV_SIZE: Final = b"65536k"
_TTY_GROUP: Final = 5  # of every distribution; grantpt(3) wants it
_CHARACTER_DEVICE: Final = 0o020000  # S_IFCHR of inode(7)


class GuestPlan(Struct, frozen=True, kw_only=True):
    """What the child does before it becomes the command."""

    steps: tuple[GuestStep, ...]
    user_map: UserMap | None = None

    @property
    def has_user_namespace(self) -> bool:
        """Tell whether the container has a user namespace of its own."""
        return self.user_map is not None


def plan_guest(request: GuestRequest) -> GuestPlan:
    """Return the steps that turn a mounted root filesystem into the inside of a container.

    Raises:
        UsageError: A mount point, tmpfs option, propagation or kernel parameter that can't be.
    """
    if request.has_user_namespace and not request.own_pid:
        raise UsageError(
            "pid namespace of the host or another container: not with a user namespace of its own",
            hint="procfs can be mounted by the owner of the pid namespace only; use --userns host",
        )
    return GuestPlan(steps=tuple(_steps(request)), user_map=request.user_map)


def _steps(request: GuestRequest) -> Iterator[GuestStep]:
    spec = request.spec
    replaced = frozenset(normal(each.target) for each in request.mounts)
    yield MakePrivate()
    yield AttachRoot(source=os.fsencode(request.rootfs))
    yield MountNew(fstype=b"proc", target=b"/proc", attributes=_CLOSED, parameters=((b"source", b"proc"),))
    yield from _device_filesystem(request, replaced)
    yield from _sysfs(request, replaced)
    yield from plan_mounts(request)
    if request.own_uts:
        yield SetNames(hostname=os.fsencode(_full_hostname(request)), domainname=os.fsencode(spec.domainname or ""))
    yield from plan_sysctls(request)
    cwd = working_directory(spec, request.config)
    if cwd != "/":
        yield MakeDirectory(path=os.fsencode(cwd))
    if not (spec.privileged or spec.unmasked):
        yield from _protections(request)
    if spec.read_only:
        yield ReadOnlyMount(path=b"/")
    yield PivotRoot()


def _full_hostname(request: GuestRequest) -> str:
    domain = request.spec.domainname
    return f"{request.hostname}.{domain}" if domain else request.hostname


def _device_filesystem(request: GuestRequest, replaced: frozenset[str]) -> Iterator[GuestStep]:
    if "/dev" not in replaced:
        yield MountNew(
            fstype=b"tmpfs",
            target=b"/dev",
            attributes=MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME,
            parameters=((b"source", b"tmpfs"), (b"mode", b"755"), (b"size", _DEV_SIZE)),
        )
        yield from _nodes(request)
        yield MakeLinks(links=tuple((os.fsencode(path), os.fsencode(target)) for path, target in devices.LINKS))
        if "/dev/pts" not in replaced:
            yield _devpts(request)
        if "/dev/shm" not in replaced:  # noqa: S108 - the guest's
            yield _shm(request)
        if "/dev/mqueue" not in replaced:
            yield _mqueue(request)
    if request.spec.tty:
        yield MakeConsole(bind=replaced.isdisjoint({"/dev", "/dev/pts"}))


def _nodes(request: GuestRequest) -> Iterator[GuestStep]:
    everything = request.spec.privileged
    asked = tuple((os.fsencode(each.host), os.fsencode(normal(each.guest))) for each in request.devices)
    if request.has_user_namespace:
        # mknod(2) of a device needs CAP_MKNOD in the initial user namespace.
        usual = tuple((os.fsencode(node.path), os.fsencode(node.path)) for node in devices.NODES)
        yield CopyDevices(devices=usual + asked, everything=everything, bind=True)
        return
    yield MakeNodes(
        nodes=tuple(
            Node(os.fsencode(node.path), _CHARACTER_DEVICE | node.mode, os.makedev(node.major, node.minor))
            for node in devices.NODES
        )
    )
    if asked or everything:
        yield CopyDevices(devices=asked, everything=everything)


def _devpts(request: GuestRequest) -> MountNew:
    gids = None if request.user_map is None else request.user_map.gids
    mapped = gids is None or host_id(gids, _TTY_GROUP) is not None
    return MountNew(
        fstype=b"devpts",
        target=b"/dev/pts",
        attributes=MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
        parameters=(
            (b"source", b"devpts"),
            (b"newinstance", None),
            (b"ptmxmode", b"0666"),
            (b"mode", b"0620"),
            *(((b"gid", b"%d" % _TTY_GROUP),) if mapped else ()),
        ),
    )


def _shm(request: GuestRequest) -> GuestStep:
    target = b"/dev/shm"
    if request.shm is not None:
        return MountTree(source=os.fsencode(request.shm), target=target, attributes=_CLOSED, propagation=MS_PRIVATE)
    return MountNew(
        fstype=b"tmpfs",
        target=target,
        attributes=_CLOSED,
        parameters=((b"source", b"shm"), (b"mode", b"1777"), (b"size", b"%d" % request.spec.shm_size_bytes)),
    )


def _mqueue(request: GuestRequest) -> GuestStep:
    if request.has_user_namespace and not request.own_ipc:
        return MountTree(source=b"/dev/mqueue", target=b"/dev/mqueue", attributes=_CLOSED, propagation=MS_PRIVATE)
    return MountNew(
        fstype=b"mqueue",
        target=b"/dev/mqueue",
        attributes=_CLOSED,
        parameters=((b"source", b"mqueue"),),
        optional=True,
    )


def _sysfs(request: GuestRequest, replaced: frozenset[str]) -> Iterator[GuestStep]:
    attribute_bits = _CLOSED if request.spec.privileged else _CLOSED | MOUNT_ATTR_RDONLY
    if "/sys" in replaced:
        return
    if request.has_user_namespace and not request.own_net:
        # sysfs shows a network namespace, and only its owner may mount it: EPERM.
        yield MountTree(source=b"/sys", target=b"/sys", attributes=attribute_bits, propagation=MS_PRIVATE)
    else:
        yield MountNew(fstype=b"sysfs", target=b"/sys", attributes=attribute_bits, parameters=((b"source", b"sysfs"),))
    if CGROUP not in replaced:
        yield from _cgroups(request)


def _cgroups(request: GuestRequest) -> Iterator[GuestStep]:
    writable = request.spec.privileged
    later: list[ReadOnlyMount] = []
    for each in request.cgroup_mounts:
        target = os.fsencode(normal(f"{CGROUP}/{each.target}"))
        bits = attributes(each.flags)
        if writable:
            bits &= ~MOUNT_ATTR_RDONLY
        if each.fstype == "tmpfs" and bits & MOUNT_ATTR_RDONLY:
            # Mount points are still to be made in it.
            bits &= ~MOUNT_ATTR_RDONLY
            later.append(ReadOnlyMount(path=target))
        yield _cgroup(each, target, bits)
    yield from later


def _cgroup(each: Mount, target: bytes, bits: int) -> GuestStep:
    if each.fstype == "bind":
        return MountTree(source=os.fsencode(each.source), target=target, attributes=bits, propagation=MS_PRIVATE)
    named = (("source", each.source), *each.options) if each.source else each.options
    return MountNew(
        fstype=os.fsencode(each.fstype),
        target=target,
        attributes=bits,
        parameters=tuple((os.fsencode(key), None if value is None else os.fsencode(value)) for key, value in named),
    )


def _protections(request: GuestRequest) -> Iterator[GuestStep]:
    masked = paths.masked() if request.masked is None else request.masked
    for path in paths.READ_ONLY:
        yield ReadOnlyPath(path=os.fsencode(path))
    for path in masked:
        yield MaskPath(path=os.fsencode(path))

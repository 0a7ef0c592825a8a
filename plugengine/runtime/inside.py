"""Plan the inside of a container: its mounts, devices and names, as docker has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from plugengine.bundle import Bundle, GuestMount, Process
from plugengine.errors import UsageError
from plugengine.kernel.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC, MS_STRICTATIME
from plugengine.kernel.process import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUTS
from plugengine.model import GuestPath, Mount, host_id
from plugengine.runtime.devices import plan_devices
from plugengine.runtime.mounts import normal, plan_mounts
from plugengine.runtime.request import InsideRequest
from plugengine.runtime.sysctls import plan_sysctls
from plugengine.security import devices, paths

CGROUP: Final = "/sys/fs/cgroup"
_CLOSED: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC
_DEV_SIZE: Final = "65536k"
_TTY_GROUP: Final = 5  # of every distribution; grantpt(3) wants it


def plan_inside(request: InsideRequest, process: Process) -> Bundle:
    """Return what a runtime makes of a mounted root filesystem; reads the host's devices, changes nothing.

    Raises:
        UsageError: A mount point, tmpfs option, propagation or kernel parameter that can't be.
        NotFoundError: A device that is not there.
    """
    spec = request.spec
    if request.has_user_namespace and not request.owns(CLONE_NEWPID):
        raise UsageError(
            "pid namespace of the host or another container: not with a user namespace of its own",
            hint="procfs can be mounted by the owner of the pid namespace only; use --userns host",
        )
    replaced = frozenset(normal(each.target) for each in request.mounts)
    own_dev = "/dev" not in replaced
    closed = not (spec.privileged or spec.unmasked)
    masked = paths.masked() if request.masked is None else request.masked
    return Bundle(
        container_id=request.container_id,
        root=request.rootfs,
        read_only=spec.read_only,
        namespaces=request.namespaces,
        hostname=_full_hostname(request) if request.owns(CLONE_NEWUTS) else None,
        domainname=spec.domainname or "",
        mounts=(*_own_mounts(request, replaced), *plan_mounts(request)),
        devices=plan_devices(request) if own_dev else (),
        links=devices.LINKS if own_dev else (),
        sysctls=tuple(plan_sysctls(request)),
        read_only_paths=paths.READ_ONLY if closed else (),
        masked_paths=masked if closed else (),
        process=process,
    )


def _full_hostname(request: InsideRequest) -> str:
    domain = request.spec.domainname
    return f"{request.hostname}.{domain}" if domain else request.hostname


def _own_mounts(request: InsideRequest, replaced: frozenset[GuestPath]) -> Iterator[GuestMount]:
    yield GuestMount(fstype="proc", source="proc", target=GuestPath("/proc"), flags=_CLOSED)
    if "/dev" not in replaced:
        yield GuestMount(
            fstype="tmpfs",
            source="tmpfs",
            target=GuestPath("/dev"),
            flags=MS_NOSUID | MS_STRICTATIME,
            options=(("mode", "755"), ("size", _DEV_SIZE)),
        )
        for mount in (_devpts(request), _shm(request), _mqueue(request)):
            if mount.target not in replaced:
                yield mount
    if "/sys" not in replaced:
        yield from _sysfs(request)
        if CGROUP not in replaced:
            yield from _cgroups(request)


def _devpts(request: InsideRequest) -> GuestMount:
    user_map = request.namespaces.user_map
    mapped = user_map is None or host_id(user_map.gids, _TTY_GROUP) is not None
    return GuestMount(
        fstype="devpts",
        source="devpts",
        target=GuestPath("/dev/pts"),
        flags=MS_NOSUID | MS_NOEXEC,
        options=(
            ("newinstance", None),
            ("ptmxmode", "0666"),
            ("mode", "0620"),
            *((("gid", str(_TTY_GROUP)),) if mapped else ()),
        ),
    )


def _shm(request: InsideRequest) -> GuestMount:
    target = GuestPath("/dev/shm")  # noqa: S108 - the guest's
    if request.shm is not None:
        return GuestMount(fstype="bind", source=request.shm, target=target, flags=_CLOSED)
    return GuestMount(
        fstype="tmpfs",
        source="shm",
        target=target,
        flags=_CLOSED,
        options=(("mode", "1777"), ("size", str(request.spec.shm_size_bytes))),
    )


def _mqueue(request: InsideRequest) -> GuestMount:
    target = GuestPath("/dev/mqueue")
    if request.has_user_namespace and not request.owns(CLONE_NEWIPC):
        return GuestMount(fstype="bind", source=target, target=target, flags=_CLOSED)
    return GuestMount(fstype="mqueue", source="mqueue", target=target, flags=_CLOSED, optional=True)


def _sysfs(request: InsideRequest) -> Iterator[GuestMount]:
    flags = _CLOSED if request.spec.privileged else _CLOSED | MS_RDONLY
    target = GuestPath("/sys")
    if request.has_user_namespace and not request.owns(CLONE_NEWNET):
        # sysfs shows a network namespace, and only its owner may mount it: EPERM.
        yield GuestMount(fstype="bind", source=target, target=target, flags=flags)
    else:
        yield GuestMount(fstype="sysfs", source="sysfs", target=target, flags=flags)


def _cgroups(request: InsideRequest) -> Iterator[GuestMount]:
    for each in request.cgroup_mounts:
        flags = each.flags & ~MS_RDONLY if request.spec.privileged else each.flags
        yield _cgroup(each, flags)


def _cgroup(each: Mount, flags: int) -> GuestMount:
    return GuestMount(
        fstype=each.fstype,
        source=each.source,
        target=normal(f"{CGROUP}/{each.target}"),
        flags=flags & ~MS_REC,
        options=each.options,
    )

"""From a bundle of the engine to the `config.json` of an OCI bundle; see config.md, config-linux.md of runtime-spec."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any, Final

from plugengine.bundle import Bundle, DeviceNode, GuestMount, Process
from plugengine.cgroups import filesystem
from plugengine.errors import DriverError, NotSupportedError
from plugengine.kernel import mount
from plugengine.kernel.libc import MACHINE
from plugengine.kernel.process import NAMESPACE_FLAGS
from plugengine.model import CgroupEntry, NamespacePlan
from plugengine.security.seccomp import UNCONFINED, read_profile
from plugengine.security.seccomp_profile import (
    SECCOMP_RET_ACTION_FULL,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS,
    SECCOMP_RET_KILL_THREAD,
    SECCOMP_RET_LOG,
    SECCOMP_RET_TRACE,
    SECCOMP_RET_TRAP,
    WHOLE,
    Rule,
)

_OWN_GROUP: Final = "runc"  # below the container's, which the engine has made and limited
_CGROUP: Final = "/sys/fs/cgroup"
_NAMESPACES: Final = {"net": "network", "mnt": "mount"}  # where the specification has another word than the kernel
_FLAGS: Final = {
    mount.MS_RDONLY: "ro",
    mount.MS_NOSUID: "nosuid",
    mount.MS_NODEV: "nodev",
    mount.MS_NOEXEC: "noexec",
    mount.MS_NOATIME: "noatime",
    mount.MS_NODIRATIME: "nodiratime",
    mount.MS_STRICTATIME: "strictatime",
}
_ACTIONS: Final = {
    SECCOMP_RET_ALLOW: "SCMP_ACT_ALLOW",
    SECCOMP_RET_ERRNO: "SCMP_ACT_ERRNO",
    SECCOMP_RET_KILL_PROCESS: "SCMP_ACT_KILL_PROCESS",
    SECCOMP_RET_KILL_THREAD: "SCMP_ACT_KILL_THREAD",
    SECCOMP_RET_LOG: "SCMP_ACT_LOG",
    SECCOMP_RET_TRACE: "SCMP_ACT_TRACE",
    SECCOMP_RET_TRAP: "SCMP_ACT_TRAP",
}
_OPERATORS: Final = {
    "==": "SCMP_CMP_EQ",
    "!=": "SCMP_CMP_NE",
    "<": "SCMP_CMP_LT",
    "<=": "SCMP_CMP_LE",
    ">": "SCMP_CMP_GT",
    ">=": "SCMP_CMP_GE",
}
_MACHINES: Final = {"x86_64": "SCMP_ARCH_X86_64", "i386": "SCMP_ARCH_X86", "aarch64": "SCMP_ARCH_AARCH64"}


def of_bundle(bundle: Bundle, group: CgroupEntry | None) -> dict[str, Any]:
    """Return the configuration of a container."""
    there = (each for each in bundle.sysctls if not each.optional or os.path.exists(f"/proc/sys/{each.path}"))
    sysctls = {each.path.replace("/", "."): each.value for each in there}
    if bundle.domainname:
        sysctls["kernel.domainname"] = bundle.domainname
    linux: dict[str, Any] = {
        "namespaces": list(_namespaces(bundle.namespaces)),
        "devices": [_device(each) for each in bundle.devices],
        "sysctl": sysctls,
        "readonlyPaths": list(bundle.read_only_paths),
        "maskedPaths": list(bundle.masked_paths),
        "resources": {"devices": []},
    }
    if group is not None:
        linux["cgroupsPath"] = _group_path(group)
        linux["resources"]["devices"] = _device_rules(group)
    if seccomp := _seccomp(bundle.process):
        linux["seccomp"] = seccomp
    return {
        "ociVersion": "1.0.2",
        "root": {"path": bundle.root, "readonly": bundle.read_only},
        "process": of_process(bundle.process),
        "mounts": list(_mounts(bundle)),
        "linux": linux,
        **({"hostname": bundle.hostname} if bundle.hostname is not None else {}),
    }


def of_process(process: Process) -> dict[str, Any]:
    """Return the `process` object."""
    identity = process.identity
    if identity is None:
        raise DriverError(f"run {process.argv[0]}: user {process.user} is not looked up")
    kept = list(process.capabilities) if identity.uid == 0 else []
    found: dict[str, Any] = {
        "terminal": process.terminal,
        "user": {
            "uid": identity.uid,
            "gid": identity.gid,
            "umask": process.umask,
            "additionalGids": list(identity.groups),
        },
        "args": list(process.argv),
        "env": list(process.env),
        "cwd": process.cwd,
        "capabilities": {"bounding": list(process.capabilities), "effective": kept, "permitted": kept},
        "rlimits": [
            {"type": f"RLIMIT_{each.name.upper()}", "soft": _unsigned(each.soft), "hard": _unsigned(each.hard)}
            for each in process.rlimits
        ],
        "noNewPrivileges": process.no_new_privileges,
    }
    if process.oom_score_adj is not None:
        found["oomScoreAdj"] = process.oom_score_adj
    return found


def _unsigned(limit: int) -> int:
    return limit % (1 << 64)  # -1 is RLIM_INFINITY


def _namespaces(plan: NamespacePlan) -> Iterator[dict[str, str]]:
    flags = plan.clone_flags | plan.unshare_flags
    for name, flag in NAMESPACE_FLAGS.items():
        if flags & flag:
            yield {"type": _NAMESPACES.get(name, name)}
    for name, path in plan.join:
        yield {"type": _NAMESPACES.get(name, name), "path": path}


def _mounts(bundle: Bundle) -> Iterator[dict[str, Any]]:
    known = _filesystems()
    for each in bundle.mounts:
        below_cgroup = each.target.startswith(f"{_CGROUP}/") and each.fstype in ("cgroup", "cgroup2")
        if below_cgroup or (each.optional and each.fstype != "bind" and each.fstype not in known):
            continue
        if each.target == _CGROUP and not each.follow:
            # The program makes the view of its own group, of all hierarchies at once.
            options = ["ro", "nosuid", "nodev", "noexec"]
            yield {"destination": _CGROUP, "type": "cgroup", "source": "cgroup", "options": options}
            continue
        yield _mount(each)


def _mount(each: GuestMount) -> dict[str, Any]:
    if each.subpath:
        raise NotSupportedError(f"volume {each.volume}: runc cannot look up {each.subpath} in it safely")
    options = [word for flag, word in _FLAGS.items() if each.flags & flag]
    if each.fstype == "bind":
        recursive = bool(each.flags & mount.MS_REC)
        options += ["rbind" if recursive else "bind", f"r{each.propagation}" if recursive else each.propagation]
        return {"destination": each.target, "type": "bind", "source": each.source, "options": options}
    options += [key if value is None else f"{key}={value}" for key, value in each.options]
    source = each.source or each.fstype
    return {"destination": each.target, "type": each.fstype, "source": source, "options": options}


def _filesystems() -> frozenset[str]:
    with open("/proc/filesystems", encoding="ascii") as stream:
        return frozenset(line.split()[-1] for line in stream)


def _device(node: DeviceNode) -> dict[str, Any]:
    return {
        "path": node.path,
        "type": node.type,
        "major": node.major,
        "minor": node.minor,
        "fileMode": stat.S_IMODE(node.mode),
        "uid": node.uid,
        "gid": node.gid,
    }


def _group_path(group: CgroupEntry) -> str:
    """Return the path of the container's group below its hierarchies, which must be the same in all of them."""
    directories = [os.path.dirname(path) for path in group.tasks]
    directories += [group.clone_into] if group.clone_into is not None else []
    paths = {directory[len(_mount_point(directory)) :] for directory in directories}
    if len(paths) != 1:
        raise DriverError(f"control groups {sorted(paths)}: runc needs the same path in every hierarchy")
    return f"{paths.pop()}/{_OWN_GROUP}"


def _mount_point(directory: str) -> str:
    while not os.path.ismount(directory):
        directory = os.path.dirname(directory)
    return directory.rstrip("/")


def _device_rules(group: CgroupEntry) -> list[dict[str, Any]]:
    """Return what the container's group lets through, so that the program's group below it says the same."""
    for path in group.tasks:
        directory = os.path.dirname(path)
        if os.path.exists(f"{directory}/devices.list"):
            lines = filesystem.read(f"{directory}/devices.list").splitlines()
            return [{"allow": False, "access": "rwm"}, *map(_rule, lines)]
    return [{"allow": True, "access": "rwm"}]  # version 2: the engine's program stands above


def _rule(line: str) -> dict[str, Any]:
    kind, numbers, access = line.split()
    found: dict[str, Any] = {"allow": True, "type": kind, "access": access}
    for key, number in zip(("major", "minor"), numbers.split(":"), strict=True):
        if number != "*":
            found[key] = int(number)
    return found


def _seccomp(process: Process) -> dict[str, Any] | None:
    if process.seccomp == UNCONFINED:
        return None
    profile = read_profile(process.seccomp, frozenset(process.capabilities), MACHINE)
    action, errno = _action(profile.default)
    found: dict[str, Any] = {
        "defaultAction": action,
        "architectures": [_MACHINES[machine] for machine in profile.machines],
        "syscalls": [entry for rule in profile.rules for entry in _syscalls(rule)],
    }
    return found if errno is None else {**found, "defaultErrnoRet": errno}


def _syscalls(rule: Rule) -> Iterator[dict[str, Any]]:
    action, errno = _action(rule.action)
    entry: dict[str, Any] = {"names": list(rule.names), "action": action}
    if errno is not None:
        entry["errnoRet"] = errno
    if rule.conditions:
        entry["args"] = [
            {"index": each.argument, "value": each.value, "op": _OPERATORS[each.op]}
            if each.mask == WHOLE
            else {"index": each.argument, "value": each.mask, "valueTwo": each.value, "op": "SCMP_CMP_MASKED_EQ"}
            for each in rule.conditions
        ]
    yield entry


def _action(number: int) -> tuple[str, int | None]:
    action = number & SECCOMP_RET_ACTION_FULL
    if action not in _ACTIONS:
        raise NotSupportedError(f"seccomp action {number:#x}: runc has no word for it")
    data = number & 0xFFFF
    return _ACTIONS[action], data if action == SECCOMP_RET_ERRNO else None

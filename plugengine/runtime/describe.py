"""Say what a bundle is, line by line, for `--dry-run`, `--debug` and error messages."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from plugengine.bundle import Bundle, GuestMount, Process, Rlimit
from plugengine.kernel.mount import MS_RDONLY
from plugengine.kernel.process import NAMESPACE_FLAGS
from plugengine.model import NamespacePlan, UserMap

_MOST_NAMES: Final = 16  # of one line


def namespaces(plan: NamespacePlan) -> str:
    """Say which namespaces are new and which are joined."""
    flags = plan.clone_flags | plan.unshare_flags
    new = [name for name, flag in NAMESPACE_FLAGS.items() if flags & flag]
    joined = [f"{name} of {path}" for name, path in plan.join]
    return f"with new namespaces: {' '.join(new) or 'none'}" + (f", joining {', '.join(joined)}" if joined else "")


def user_map(wanted: UserMap) -> str:
    """Say the user ids of a map, as guest:host:size."""
    return ", ".join(f"{each.guest}:{each.host}:{each.size}" for each in wanted.uids)


def inside(bundle: Bundle) -> Iterator[str]:
    """Yield a line for each thing that is made inside the container, in order."""
    yield from (mount(each) for each in bundle.mounts)
    if bundle.devices:
        yield f"make {_names([node.path for node in bundle.devices])}"
    if bundle.links:
        yield f"link {_names([path for path, _target in bundle.links])}"
    if bundle.hostname is not None:
        yield f"set hostname to {bundle.hostname}" + (f" in {bundle.domainname}" if bundle.domainname else "")
    for sysctl in bundle.sysctls:
        yield f"set {sysctl.path.replace('/', '.')} to {sysctl.value}"
    for path in bundle.read_only_paths:
        yield f"make {path} read-only"
    for path in bundle.masked_paths:
        yield f"mask {path}"
    if bundle.read_only:
        yield "make the root filesystem read-only"


def mount(wanted: GuestMount) -> str:
    """Say one mount."""
    mode = " read-only" if wanted.flags & MS_RDONLY else ""
    if wanted.fstype != "bind":
        return f"mount {wanted.fstype} on {wanted.target}{mode}"
    what = f"volume {wanted.volume}" if wanted.volume else wanted.source
    part = f", path {wanted.subpath} in it," if wanted.subpath else ""
    return f"bind {what}{part} on {wanted.target}{mode}"


def process(planned: Process) -> Iterator[str]:
    """Yield what runs, as whom, and what it may; of its environment the names alone, as values may be secret."""
    yield f"run {shlex.join(planned.argv)} as {_who(planned)} in {planned.cwd}"
    yield f"environment: {' '.join(entry.partition('=')[0] for entry in planned.env)}"
    names = [name.removeprefix("CAP_").lower() for name in planned.capabilities]
    yield f"capabilities: {' '.join(names) or 'none'}"
    profile = planned.seccomp if planned.seccomp in ("default", "unconfined") else "of the caller"
    yield f"seccomp profile: {profile}" + (", no new privileges" if planned.no_new_privileges else "")
    if planned.rlimits:
        yield f"limits: {' '.join(_limit(each) for each in planned.rlimits)}"
    if planned.oom_score_adj is not None:
        yield f"oom_score_adj: {planned.oom_score_adj}"
    if planned.terminal or planned.init:
        yield " and ".join(["with a terminal"] * planned.terminal + ["below an init process"] * planned.init)


def _who(planned: Process) -> str:
    groups = f" with groups {' '.join(planned.add_groups)}" if planned.add_groups else ""
    return f"user {planned.user or '0'}{groups}"


def _limit(each: Rlimit) -> str:
    return f"{each.name}={each.soft}:{each.hard}"


def _names(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return " ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")

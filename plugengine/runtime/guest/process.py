"""Plan the process a container runs: command, environment, identity, limits and privileges; pure."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from plugengine.errors import UsageError
from plugengine.kernel.capabilities import last_cap
from plugengine.kernel.machine import kernel_version, runs_here
from plugengine.model import UserMap, host_id
from plugengine.runtime.accounts import Accounts, Identity, resolve
from plugengine.runtime.guest.environment import environment, working_directory
from plugengine.runtime.guest.rlimits import Planned, current_hard_limits, may_raise_limits, plan_rlimits
from plugengine.security import capabilities
from plugengine.spec import ContainerSpec, ExecSpec, ImageConfig, Rlimit, required_argv, variables

_UMASK: Final = 0o022
_CAP_SYS_PTRACE: Final = 1 << 19
# Until 6.14 a program run by descriptor was called after the descriptor's number in ps(1): fs/exec.c, alloc_bprm.
_NAMES_DESCRIPTORS: Final = (6, 14)


class ProcessRequest(Struct, frozen=True, kw_only=True):
    """Everything a process of the container depends on."""

    spec: ContainerSpec
    config: ImageConfig
    hostname: str
    accounts: Accounts  # plugengine.runtime.accounts.read_accounts of the root filesystem
    seccomp: bytes | None  # plugengine.security.seccomp.program for `capability_set(spec)`
    user_map: UserMap | None = None
    default_rlimits: tuple[Rlimit, ...] = ()
    platform: str = ""  # of the image: os/architecture


class ProcessPlan(Struct, frozen=True, kw_only=True):
    """A process, in bytes and numbers as the kernel takes them."""

    argv: tuple[bytes, ...]
    environ: Mapping[bytes, bytes]
    search: tuple[bytes, ...]  # directories of PATH
    cwd: bytes
    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: int  # bounding, and for user 0 permitted and effective; inheritable and ambient are empty
    last_capability: int  # the highest number this kernel knows
    no_new_privs: bool
    seccomp: bytes | None
    rlimits: tuple[Planned, ...]
    umask: int
    tty: bool
    init: bool
    stop_signal: int
    has_user_namespace: bool
    hostile: bool  # the container runs already, and may swap files while we look at them
    traceable: bool  # and its processes may trace what enters its pid namespace, however well that is protected
    names_descriptors: bool  # a program run by descriptor gets its file's name in ps(1)
    foreign: str  # the image's platform, where this machine does not run its programs
    warnings: tuple[str, ...]

    def describe(self) -> str:
        """Say what runs, as whom."""
        words = " ".join(os.fsdecode(word) for word in self.argv)
        return f"run {words} as {self.uid}:{self.gid} in {os.fsdecode(self.cwd)}"


def plan_process(request: ProcessRequest) -> ProcessPlan:
    """Return the plan of a container's first process.

    Raises:
        UsageError: No command; a user, directory, signal, capability or limit that can't be.
        NotFoundError: A user or group name the image does not have.
        NotSupportedError: A limit or capability this engine can't give.
        ImageError: The image's etc/passwd or etc/group is no plain file.
    """
    spec, config = request.spec, request.config
    return _plan(
        request,
        argv=required_argv(spec, config),
        layers=(variables(spec, config),),
        identity=resolve(spec.user or config.user, request.accounts, add_groups=spec.groups),
        cwd=working_directory(spec, config),
        bits=capability_set(spec),
        tty=spec.tty,
        init=spec.init,
        hostile=False,
    )


def plan_exec(request: ProcessRequest, exec_spec: ExecSpec) -> ProcessPlan:
    """Return the plan of one more process in a running container; raises as `plan_process`.

    A running container may swap files between our look and the kernel's, so its programs are always run by
    descriptor, even where that costs the usual name in ps(1).
    """
    spec, config = request.spec, request.config
    if not exec_spec.command:
        raise UsageError("exec: no command given")
    inside = spec if exec_spec.working_dir is None else _at(spec, exec_spec)
    bits = capabilities.resolve((), (), privileged=True) if exec_spec.privileged else capability_set(spec)
    return _plan(
        request,
        argv=exec_spec.command,
        layers=(variables(spec, config), exec_spec.env),
        identity=resolve(exec_spec.user or spec.user or config.user, request.accounts, add_groups=spec.groups),
        cwd=working_directory(inside, config),
        bits=bits,
        tty=exec_spec.tty,
        init=False,
        hostile=True,
    )


def capability_set(spec: ContainerSpec) -> int:
    """Return the capabilities of a container's processes; its seccomp filter depends on them."""
    return capabilities.resolve(spec.cap_add, spec.cap_drop, privileged=spec.privileged)


def may_trace(spec: ContainerSpec) -> bool:
    """Tell whether a container may trace processes that are not its own, in its user namespace; see ptrace(2)."""
    return bool(capability_set(spec) & _CAP_SYS_PTRACE)


def signal_number(text: str) -> int:
    """Return the number of a signal given as "SIGTERM", "term", "15" or "RTMIN+3"; see signal(7).

    Raises:
        UsageError: There is no such signal.
    """
    name, plus, offset = text.upper().removeprefix("SIG").partition("+")
    number = int(name) if name.isascii() and name.isdigit() and len(name) < len("100") else _by_name(name)
    if plus and name == "RTMIN" and offset.isascii() and offset.isdigit():
        number += int(offset[:3])
    elif plus:
        number = 0
    if not 0 < number <= signal.SIGRTMAX:
        raise UsageError(f"signal {text!r}: no such signal")
    return number


def _by_name(name: str) -> int:
    found = getattr(signal, f"SIG{name}", None)
    return int(found) if isinstance(found, signal.Signals) else 0


def _plan(
    request: ProcessRequest,
    *,
    argv: tuple[str, ...],
    layers: tuple[tuple[str, ...], ...],
    identity: Identity,
    cwd: str,
    bits: int,
    tty: bool,
    init: bool,
    hostile: bool,
) -> ProcessPlan:
    _check_mapped(identity, request.user_map)
    spec = request.spec
    environ = environment(layers, hostname=request.hostname, home=identity.home, tty=tty)
    rlimits, warnings = plan_rlimits(
        spec.rlimits, request.default_rlimits, hard_limits=current_hard_limits(), may_raise=may_raise_limits()
    )
    words = tuple(os.fsencode(word) for word in argv)
    if any(b"\0" in word for word in (*words, *environ.values(), os.fsencode(cwd))):
        raise UsageError("the command, its directory or its environment holds a zero byte")
    return ProcessPlan(
        argv=words,
        environ=environ,
        search=tuple(environ.get(b"PATH", b"").split(b":")),
        cwd=os.fsencode(cwd),
        uid=identity.uid,
        gid=identity.gid,
        groups=identity.groups,
        capabilities=bits,
        last_capability=last_cap(),
        no_new_privs=spec.no_new_privileges,
        seccomp=request.seccomp,
        rlimits=rlimits,
        umask=_UMASK,
        tty=tty,
        init=init,
        stop_signal=signal_number(spec.stop_signal or request.config.stop_signal or "SIGTERM"),
        has_user_namespace=request.user_map is not None,
        hostile=hostile,
        traceable=hostile and request.user_map is None and may_trace(spec),
        names_descriptors=kernel_version() >= _NAMES_DESCRIPTORS,
        foreign="" if runs_here(request.platform) else request.platform,
        warnings=warnings,
    )


def _check_mapped(identity: Identity, user_map: UserMap | None) -> None:
    if user_map is None:
        return
    if host_id(user_map.uids, identity.uid) is None:
        raise UsageError(f"user {identity.uid}: not in the container's user namespace", hint="map more ids")
    for gid in (identity.gid, *identity.groups):
        if host_id(user_map.gids, gid) is None:
            raise UsageError(f"group {gid}: not in the container's user namespace", hint="map more ids")


def _at(spec: ContainerSpec, exec_spec: ExecSpec) -> ContainerSpec:
    import msgspec

    return msgspec.structs.replace(spec, working_dir=exec_spec.working_dir)

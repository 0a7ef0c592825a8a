"""Plan the processes a container runs: command, environment, identity, limits and privileges; docker's rules."""

from __future__ import annotations

import msgspec

from plugengine.bundle import Identity, Process
from plugengine.errors import UsageError
from plugengine.kernel.capabilities import CAP_SYS_PTRACE, capability_names
from plugengine.model import GuestPath, HostPath, UserMap, host_id
from plugengine.runtime.accounts import read_accounts, resolve
from plugengine.runtime.environment import environment, with_home, working_directory
from plugengine.runtime.rlimits import check_rlimits, current_hard_limits, may_raise_limits
from plugengine.runtime.signals import signal_number
from plugengine.security import capabilities
from plugengine.spec import ContainerSpec, ExecSpec, ImageConfig, required_argv, variables


def plan_process(spec: ContainerSpec, config: ImageConfig, *, hostname: str, platform: str = "") -> Process:
    """Return a container's first process, all but the ids of its user.

    Args:
        spec: What the caller asked for.
        config: What the image says.
        hostname: Of the container.
        platform: Of the image: os/architecture.

    Raises:
        UsageError: No command; a directory, signal, capability or limit that can't be.
        NotSupportedError: A limit or capability this engine can't give.
    """
    signal_number(spec.stop_signal or config.stop_signal or "SIGTERM")
    return _plan(
        spec,
        argv=required_argv(spec, config),
        env=environment((variables(spec, config),), hostname=hostname, terminal=spec.tty),
        cwd=working_directory(spec, config),
        user=spec.user or config.user,
        privileged=spec.privileged,
        terminal=spec.tty,
        init=spec.init,
        platform=platform,
    )


def plan_exec(
    spec: ContainerSpec, config: ImageConfig, asked: ExecSpec, *, hostname: str, platform: str = ""
) -> Process:
    """Return one more process of a running container, all but the ids of its user; raises as `plan_process`."""
    if not asked.command:
        raise UsageError("exec: no command given")
    at = spec if asked.working_dir is None else msgspec.structs.replace(spec, working_dir=asked.working_dir)
    return _plan(
        spec,
        argv=asked.command,
        env=environment((variables(spec, config), asked.env), hostname=hostname, terminal=asked.tty),
        cwd=working_directory(at, config),
        user=asked.user or spec.user or config.user,
        privileged=asked.privileged or spec.privileged,
        terminal=asked.tty,
        init=False,
        platform=platform,
    )


def may_trace(spec: ContainerSpec) -> bool:
    """Tell whether a container may trace processes that are not its own, in its user namespace; see ptrace(2)."""
    bits = capabilities.resolve(spec.cap_add, spec.cap_drop, privileged=spec.privileged)
    return bool(bits >> CAP_SYS_PTRACE & 1)


def identify(process: Process, rootfs: HostPath, user_map: UserMap | None) -> Process:
    """Return a process with the ids and the home its user has in the container's own /etc/passwd and /etc/group.

    Raises:
        NotFoundError: A user or group name the image does not have.
        UsageError: An id that can't be, or that the user namespace does not map.
        ImageError: One of the files is no plain file.
    """
    found = resolve(process.user, read_accounts(rootfs), add_groups=process.add_groups)
    identity = Identity(uid=found.uid, gid=found.gid, groups=found.groups)
    _check_mapped(identity, user_map)
    return msgspec.structs.replace(process, identity=identity, env=with_home(process.env, found.home))


def _plan(
    spec: ContainerSpec,
    *,
    argv: tuple[str, ...],
    env: tuple[str, ...],
    cwd: GuestPath,
    user: str,
    privileged: bool,
    terminal: bool,
    init: bool,
    platform: str,
) -> Process:
    if any("\0" in word for word in (*argv, *env, cwd)):
        raise UsageError("the command, its directory or its environment holds a zero byte")
    return Process(
        argv=argv,
        env=env,
        cwd=cwd,
        user=user,
        add_groups=spec.groups,
        capabilities=tuple(capability_names(capabilities.resolve(spec.cap_add, spec.cap_drop, privileged=privileged))),
        no_new_privileges=spec.no_new_privileges,
        seccomp="unconfined" if spec.privileged and spec.seccomp == "default" else spec.seccomp,
        rlimits=check_rlimits(spec.rlimits, hard_limits=current_hard_limits(), may_raise=may_raise_limits()),
        oom_score_adj=spec.oom_score_adj,
        terminal=terminal,
        init=init,
        platform=platform,
    )


def _check_mapped(identity: Identity, user_map: UserMap | None) -> None:
    if user_map is None:
        return
    if host_id(user_map.uids, identity.uid) is None:
        raise UsageError(f"user {identity.uid}: not in the container's user namespace", hint="map more ids")
    for gid in (identity.gid, *identity.groups):
        if host_id(user_map.gids, gid) is None:
            raise UsageError(f"group {gid}: not in the container's user namespace", hint="map more ids")

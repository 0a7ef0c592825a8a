"""From a process to bytes and numbers as the kernel takes them; nothing here forks or changes the host."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct
from plugengine.bundle import Bundle, Process
from plugengine.errors import DriverError
from plugengine.kernel.capabilities import CAP_SYS_PTRACE, capability_set, last_cap
from plugengine.kernel.machine import kernel_version, runs_here
from plugengine.kernel.rlimits import RLIMITS, above
from plugengine.model import HostPath
from plugengine.security import seccomp

# Until 6.14 a program run by descriptor was called after the descriptor's number in ps(1): fs/exec.c, alloc_bprm.
_NAMES_DESCRIPTORS: Final = (6, 14)


class Prepared(Struct, frozen=True, kw_only=True):
    """A process, ready for the child."""

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
    rlimits: tuple[tuple[int, int, int], ...]  # resource, soft, hard
    umask: int
    tty: bool
    init: bool
    has_user_namespace: bool
    hostile: bool  # the container runs already, and may swap files while we look at them
    traceable: bool  # and its processes may trace what enters its pid namespace, however well that is protected
    names_descriptors: bool  # a program run by descriptor gets its file's name in ps(1)
    foreign: str  # the image's platform, where this machine does not run its programs


def prepare(
    process: Process, *, user_namespace: bool, filters: HostPath, hostile: bool = False, traceable: bool = False
) -> Prepared:
    """Return a process as the child needs it.

    Args:
        process: With its identity.
        user_namespace: The container has one of its own.
        filters: Directory of compiled system call filters, made if missing.
        hostile: The container runs already. Its programs are then always run by descriptor, even where that costs the
            usual name in ps(1).
        traceable: Its processes may trace what enters its pid namespace.

    Raises:
        UsageError: The seccomp profile is none.
        NotSupportedError: There is no table of system calls for this machine.
    """
    if process.identity is None:
        raise DriverError(f"run {process.argv[0]}: user {process.user} is not looked up")
    environ = dict(os.fsencode(entry).split(b"=", 1) for entry in process.env)
    bits = capability_set(process.capabilities)
    return Prepared(
        argv=tuple(os.fsencode(word) for word in process.argv),
        environ=environ,
        search=tuple(environ.get(b"PATH", b"").split(b":")),
        cwd=os.fsencode(process.cwd),
        uid=process.identity.uid,
        gid=process.identity.gid,
        groups=process.identity.groups,
        capabilities=bits,
        last_capability=last_cap(),
        no_new_privs=process.no_new_privileges,
        seccomp=seccomp.program(process.seccomp, bits, filters),
        rlimits=tuple((RLIMITS[each.name], each.soft, each.hard) for each in process.rlimits),
        umask=process.umask,
        tty=process.terminal,
        init=process.init,
        has_user_namespace=user_namespace,
        hostile=hostile,
        traceable=traceable,
        names_descriptors=kernel_version() >= _NAMES_DESCRIPTORS,
        foreign="" if runs_here(process.platform) else process.platform,
    )


def may_trace(bundle: Bundle) -> bool:
    """Tell whether a container may trace processes that are not its own, in its user namespace; see ptrace(2)."""
    return bundle.namespaces.user_map is None and bool(
        capability_set(bundle.process.capabilities) >> CAP_SYS_PTRACE & 1
    )


def raise_rlimits(pid: int, rlimits: Iterable[tuple[int, int, int]]) -> None:
    """Raise the hard limits of a child as far as its plan needs; called by its parent before it goes on.

    A child in a user namespace of its own can't do that itself: prlimit(2) wants the capability in the initial one.
    """
    for number, _soft, hard in rlimits:
        soft, ours = resource.prlimit(pid, number)
        if above(hard, ours):
            resource.prlimit(pid, number, (soft, hard))

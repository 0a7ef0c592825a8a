"""Turn the modes of a request into clone flags, joins and maps; pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

from plugengine.errors import NotSupportedError, UsageError
from plugengine.kernel.process import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)
from plugengine.model import HostPath, IdRange, NamespacePlan, NamespaceRequest, UserMap

TIME_OFFSET = "time_offset"

PRIVATE = "private"
HOST = "host"
_JOIN = re.compile(r"container:([1-9][0-9]*)")

# In the order of joining: the pid namespace last, so that no process of it can look at us while the
# others are still being entered (CVE-2016-9962).
_FLAGS = {
    "user": CLONE_NEWUSER,
    "mnt": CLONE_NEWNS,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "net": CLONE_NEWNET,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
    "pid": CLONE_NEWPID,
}
_PRIVATE_BY_DEFAULT = frozenset({"pid", "net", "mnt", "uts", "ipc", "cgroup"})
# Only the owner of these may mount proc, sysfs and mqueue for them; see mount(2) and user_namespaces(7).
_TIED_TO_USER = ("pid", "net", "ipc")

_CLOCKS = ("monotonic", "boottime")
_OFFSET = re.compile(r"(?:(monotonic|boottime)=)?(-?[0-9]{1,10})")

# include/linux/user_namespace.h, UID_GID_MAP_MAX_EXTENTS; 2^32-1 is "no id", see user_namespaces(7)
_MAX_RANGES = 340
_ID_END = 2**32 - 1


def plan(request: NamespaceRequest, missing: Callable[[str], str | None]) -> NamespacePlan:
    """Return the plan; `missing` tells why the host can't make one kind of namespace.

    CLONE_NEWCGROUP goes to `unshare_flags`: the new namespace's root is the group the process is in at that
    moment, which is the container's only after it has been moved there. CLONE_NEWTIME stays in `clone_flags`
    also with offsets; the core then unshares it before the clone, because clone3(2) leaves no moment at which
    /proc/PID/timens_offsets can be written (time_namespaces(7)).
    """
    modes = _modes(request)
    _refuse_conflicts(request, modes)
    offsets = tuple(_time_offsets(request.options.get(TIME_OFFSET) or ""))
    private = [name for name, mode in modes.items() if mode == PRIVATE]
    for name in private:
        if reason := missing(name):
            raise NotSupportedError(f"--{_flag_name(name)}: {reason}")
    flags = 0
    for name in private:
        flags |= _FLAGS[name]
    return NamespacePlan(
        clone_flags=flags & ~CLONE_NEWCGROUP,
        unshare_flags=flags & CLONE_NEWCGROUP,
        join=tuple(
            (name, HostPath(f"/proc/{found[1]}/ns/{name}"))
            for name, mode in modes.items()
            if (found := _JOIN.fullmatch(mode))
        ),
        user_map=request.user_map if modes["user"] == PRIVATE else None,
        time_offsets=offsets,
    )


def _modes(request: NamespaceRequest) -> dict[str, str]:
    """Return the mode of every namespace, in the order of joining."""
    for name, mode in request.modes.items():
        if name not in _FLAGS:
            raise UsageError(
                f"namespace {name!r}: there is no such kind", hint=f"the kinds are {', '.join(sorted(_FLAGS))}"
            )
        if mode not in {PRIVATE, HOST} and not _JOIN.fullmatch(mode):
            raise UsageError(
                f"--{_flag_name(name)} {mode}: not a mode of a namespace",
                hint="the modes are private, host and container:<name>",
            )
    modes = {name: PRIVATE if name in _PRIVATE_BY_DEFAULT else HOST for name in _FLAGS}
    if request.user_map is not None:
        modes["user"] = PRIVATE
    if request.options.get(TIME_OFFSET) is not None:
        modes["time"] = PRIVATE
    return modes | dict(request.modes)


def _refuse_conflicts(request: NamespaceRequest, modes: dict[str, str]) -> None:
    if modes["mnt"] != PRIVATE:
        raise UsageError(f"--mnt {modes['mnt']}: the mount namespace of a container is always its own")
    if _JOIN.fullmatch(modes["user"]):
        raise UsageError(
            f"--userns {modes['user']}: the user namespace of another container can't be joined",
            hint="give both containers the same --userns <uid>:<gid>:<size>",
        )
    if request.options.get(TIME_OFFSET) is not None and modes["time"] != PRIVATE:
        raise UsageError(f"option {TIME_OFFSET}: the time namespace is {modes['time']}, so it has other offsets")
    if request.user_map is None:
        if modes["user"] == PRIVATE:
            raise UsageError("--userns private: no map of user ids given", hint="use --userns auto")
        return
    if modes["user"] == HOST:
        raise UsageError("--userns host: a map of user ids needs a user namespace of its own")
    for name in _TIED_TO_USER:
        if modes[name] != PRIVATE:
            raise UsageError(
                f"--{_flag_name(name)} {modes[name]}: not with a user namespace, which would not own it",
                hint="add --userns host",
            )
    _check_map(request.user_map)


def _check_map(user_map: UserMap) -> None:
    """Refuse what the kernel would refuse later with a bare EINVAL."""
    for what, ranges in (("uids", user_map.uids), ("gids", user_map.gids)):
        if not 0 < len(ranges) <= _MAX_RANGES:
            raise UsageError(f"user map: {len(ranges)} ranges of {what}, 1 to {_MAX_RANGES} are possible")
        for one in ranges:
            if min(one.guest, one.host, one.size - 1) < 0 or max(one.guest, one.host) + one.size > _ID_END:
                raise UsageError(
                    f"user map: {what} {one.guest}:{one.host}:{one.size} are not all between 0 and {_ID_END - 1}"
                )
        for side in ("guest", "host"):
            _refuse_overlap(what, side, ranges)
        if not any(one.guest == 0 for one in ranges):
            raise UsageError(f"user map: {what} do not map 0, the guest's root")


def _refuse_overlap(what: str, side: str, ranges: tuple[IdRange, ...]) -> None:
    starts = sorted((one.guest if side == "guest" else one.host, one.size) for one in ranges)
    for (first, size), (second, _) in itertools.pairwise(starts):
        if first + size > second:
            raise UsageError(f"user map: {side} {what} {first}+{size} and {second} overlap")


def _time_offsets(text: str) -> Iterator[tuple[str, int]]:
    """Yield (clock, seconds) of "N" or "monotonic=N,boottime=N"."""
    seen: set[str] = set()
    for part in text.split(",") if text else ():
        found = _OFFSET.fullmatch(part)
        if not found:
            raise UsageError(
                f"option {TIME_OFFSET}={text}: not an offset in whole seconds",
                hint="give N, or monotonic=N,boottime=N",
            )
        for clock in (found[1],) if found[1] else _CLOCKS:
            if clock in seen:
                raise UsageError(f"option {TIME_OFFSET}={text}: two offsets for {clock}")
            seen.add(clock)
            yield clock, int(found[2])


def _flag_name(name: str) -> str:
    """Return the command line's word for a kind of namespace."""
    return {"user": "userns", "cgroup": "cgroupns"}.get(name, name)

"""Check `--sysctl` settings: only those of the container's own namespaces; see namespaces(7), sysctl(8)."""

from __future__ import annotations

from collections.abc import Iterator

from plugengine.bundle import Sysctl
from plugengine.errors import UsageError
from plugengine.kernel.process import CLONE_NEWIPC, CLONE_NEWNET
from plugengine.runtime.request import InsideRequest

_IPC = ("kernel/shm", "kernel/msg", "fs/mqueue/")
_IPC_EXACT = ("kernel/sem",)
_NET = "net/"
_SWAPPED = str.maketrans("./", "/.")

# As docker sets them: in a network namespace of its own a container may ping, and bind what port it likes.
_EVERY_GROUP = "0 2147483647"
_DEFAULTS = (
    Sysctl(path="net/ipv4/ip_unprivileged_port_start", value="0", optional=True),
    Sysctl(path="net/ipv4/ping_group_range", value=_EVERY_GROUP, optional=True),
)


def plan_sysctls(request: InsideRequest) -> Iterator[Sysctl]:
    """Yield the parameters, docker's defaults first.

    Raises:
        UsageError: The parameter is not namespaced, or the namespace is not the container's own.
    """
    asked = {_path(name): value for name, value in request.spec.sysctls.items()}
    if request.owns(CLONE_NEWNET):
        for default in _DEFAULTS:
            # A range of groups that the user namespace does not map is refused: EINVAL.
            mapped = not (request.has_user_namespace and default.value == _EVERY_GROUP)
            if mapped and default.path not in asked:
                yield default
    for path, value in asked.items():
        _check(path, request)
        yield Sysctl(path=path, value=value)


def _path(name: str) -> str:
    """Return the path below /proc/sys; the separator that comes first is the separator, see sysctl.d(5)."""
    dot, slash = name.find("."), name.find("/")
    path = name.translate(_SWAPPED) if slash < 0 or 0 <= dot < slash else name
    if "\0" in path or any(part in {"", ".", ".."} for part in path.split("/")):
        raise UsageError(f"--sysctl {name}: not the name of a kernel parameter")
    return path


def _check(path: str, request: InsideRequest) -> None:
    name = path.replace("/", ".")
    if path.startswith(_NET):
        if not request.owns(CLONE_NEWNET):
            raise UsageError(f"--sysctl {name}: the network namespace is not the container's own")
    elif path.startswith(_IPC) or path in _IPC_EXACT:
        if not request.owns(CLONE_NEWIPC):
            raise UsageError(f"--sysctl {name}: the IPC namespace is not the container's own")
    else:
        raise UsageError(
            f"--sysctl {name}: it belongs to the whole machine, not to a namespace",
            hint="allowed are kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.*",
        )

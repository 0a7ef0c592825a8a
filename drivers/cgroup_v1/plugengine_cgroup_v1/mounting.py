"""The guest's view of its groups: a read-only directory with a mount for each hierarchy."""

from __future__ import annotations

from plugengine.kernel.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY
from plugengine.model import HostPath, Mount

from plugengine_cgroup_v1.host import UNIFIED, ControllerSet

# Read-only throughout: release_agent of a writable hierarchy runs programs on the host (CVE-2022-0492).
_FLAGS = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC


def mounts(controllers: ControllerSet, target: HostPath) -> tuple[Mount, ...]:
    """Return a tmpfs for the mount points, then a mount for each name, as programs look for them.

    Inside the guest's cgroup namespace the root of every mount is the container's own group. Controllers that are
    mounted together appear under each of their names.
    """
    found = [
        Mount(fstype="tmpfs", source="cgroup", target=target, flags=_FLAGS, options=(("mode", "755"),)),
    ]
    for names, _base in controllers.in_use():
        if names == (UNIFIED,):
            continue
        options = tuple(_option(name) for name in names)
        found += [
            Mount(
                fstype="cgroup",
                source="cgroup",
                target=HostPath(f"{target}/{name.removeprefix('name=')}"),
                flags=_FLAGS,
                options=options,
            )
            for name in names
        ]
    return tuple(found)


def _option(name: str) -> tuple[str, str | None]:
    key, equals, value = name.partition("=")
    return (key, value if equals else None)

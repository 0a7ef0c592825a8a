"""Remember below which control groups containers were put, also when their rows are lost."""

from __future__ import annotations

import os

from plugengine.site import Site


def remember(site: Site, parent: str) -> None:
    """Keep the name of a parent until the host restarts, which takes the groups along; what cannot be kept is not."""
    try:
        os.makedirs(site.locations.cgroup_parents, mode=0o700, exist_ok=True)
        with open(os.path.join(site.locations.cgroup_parents, _quoted(parent)), "w", encoding="ascii"):
            pass
    except OSError:
        pass


def known(site: Site) -> tuple[str, ...]:
    """Return the parents there may be groups of this engine below, sorted."""
    try:
        names = os.listdir(site.locations.cgroup_parents)
    except FileNotFoundError:
        return ()
    return tuple(sorted(name.replace("%2F", "/").replace("%25", "%") for name in names))


def _quoted(parent: str) -> str:
    return parent.replace("%", "%25").replace("/", "%2F")

"""Find and remove links of the namespace the thread is in."""

from __future__ import annotations

import errno

from plugengine.kernel.netlink import NetlinkSocket

from plugengine_net_bridge import rtnl
from plugengine_net_bridge.rtnl import Link

_GONE = frozenset((errno.ENODEV,))


def find(rtnetlink: NetlinkSocket, name: str) -> Link | None:
    """Return one link by name; None: there is none."""
    (answer,) = rtnetlink.execute(rtnl.get_link(name), accept=_GONE)
    return Link(answer.replies[0][1]) if answer.replies else None


def find_all(rtnetlink: NetlinkSocket) -> list[Link]:
    """Return every link."""
    return [Link(body) for kind, body in rtnetlink.get(rtnl.all_links()) if kind == rtnl.RTM_NEWLINK]


def delete(rtnetlink: NetlinkSocket, name: str) -> None:
    """Delete a link; one that is not there counts as deleted."""
    rtnetlink.execute(rtnl.delete_link(name), accept=_GONE)


def is_ending(rtnetlink: NetlinkSocket, nsid: int | None) -> bool:
    """Tell whether a namespace is gone, or about to go with all its links and their peers.

    Needs no lock of the kernel's; see `pair.unmake`.

    Args:
        rtnetlink: A socket of the namespace that has the number.
        nsid: The number, as `Link.peer_nsid`; None is never ending.
    """
    if nsid is None:
        return False
    (answer,) = rtnetlink.exchange([rtnl.get_namespace(nsid)])
    return answer.error is not None and answer.error.errno == errno.ENOENT


def in_use(rtnetlink: NetlinkSocket, bridge: Link, links: list[Link]) -> bool:
    """Tell whether a bridge has a port that is not about to go."""
    return any(link.master == bridge.index and not is_ending(rtnetlink, link.peer_nsid) for link in links)

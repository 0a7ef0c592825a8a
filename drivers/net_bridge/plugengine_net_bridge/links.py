"""Tell which links of the namespace the thread is in still have somebody at the other end."""

from __future__ import annotations

import errno

from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel.netlink import NetlinkSocket
from plugengine.kernel.rtnetlink import Link


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

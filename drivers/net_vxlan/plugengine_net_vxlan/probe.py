"""Find out, without changing anything, whether this host can run VXLAN networks."""

from __future__ import annotations

import errno

from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel.netlink import NETLINK_ROUTE, NetlinkSocket


def reasons() -> list[str]:
    """Return why not: asked for each kind of link in a way that cannot succeed."""
    kinds = ("bridge", "veth", "vxlan")
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        answers = netlink.exchange([rtnl.malformed_link(kind) for kind in kinds])
    found = []
    for kind, answer in zip(kinds, answers, strict=True):
        if answer.error is not None and answer.error.errno in (errno.EPERM, errno.EACCES):
            return ["needs root: no CAP_NET_ADMIN in this network namespace"]
        if answer.error is not None and answer.error.errno == errno.EOPNOTSUPP:
            found.append(f"the kernel has no {kind} links: load the module {kind}")
    return found

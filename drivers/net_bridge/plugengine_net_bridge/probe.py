"""Find out, without changing anything, whether this host can run bridge networks."""

from __future__ import annotations

import errno
import os

from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel import sysctl
from plugengine.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket

from plugengine_net_bridge import nft
from plugengine_net_bridge.rules import definition

_MISSING = frozenset((errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.ENOENT, errno.EINVAL))


def reasons() -> list[str]:
    """Return why not, in words a person can act on; none: it can."""
    try:
        return [*_links(), *_filter(), *_forwarding()]
    except OSError as exc:
        if exc.errno in (errno.EPERM, errno.EACCES):
            return ["needs root: no CAP_NET_ADMIN in this network namespace"]
        return [f"netlink: {exc.strerror}"]


def _links() -> list[str]:
    """Ask for each kind of link in a way that can't succeed."""
    kinds = ("bridge", "veth")
    with NetlinkSocket(NETLINK_ROUTE) as rtnetlink:
        answers = rtnetlink.exchange([rtnl.malformed_link(kind) for kind in kinds])
    found = []
    for kind, answer in zip(kinds, answers, strict=True):
        if answer.error is None:
            continue
        if answer.error.errno == errno.EPERM:
            raise answer.error
        if answer.error.errno == errno.EOPNOTSUPP:
            found.append(f"the kernel has no {kind} links: load the module {kind}")
    return found


def _filter() -> list[str]:
    """Let the kernel check our rules and forget them, as `nft --check` does."""
    try:
        with NetlinkSocket(NETLINK_NETFILTER) as nf:
            nf.execute(*nft.batch(definition(), commit=False))
    except OSError as exc:
        if exc.errno not in _MISSING:
            raise
        return [
            f"the kernel lacks a part of nf_tables: {exc.strerror} ({exc.filename}); load nf_tables, nft_nat, "
            "nft_masq, nft_fib_ipv4, nft_ct and nf_nat"
        ]
    return []


def _forwarding() -> list[str]:
    if sysctl.read(sysctl.IP_FORWARD) != "0" or os.access("/proc/sys/" + sysctl.IP_FORWARD, os.W_OK):
        return []
    return ["net.ipv4.ip_forward is off and /proc/sys is read-only: turn it on from outside"]

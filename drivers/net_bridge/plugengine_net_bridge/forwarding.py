"""Let the host forward packets of the networks and of nobody else; take it back with the last network.

The kernel forwards a packet if the interface it came in by has `net.ipv4.conf.INTERFACE.forwarding`. What comes back
to a container comes in by whatever interface leads outside, so that of the bridge is not enough. `net.ipv4.ip_forward`
turns it on for all interfaces, for those to come and for every new network namespace, resets other settings, and does
not tell whose wish it was. So forwarding is turned on interface by interface, where it is off:

* First the interface's index is put into the set `guarded`: what comes in by one of these and goes to none of the
  networks is dropped (rules.py).
* Then the setting becomes 2. To the kernel any number but 0 is on; this one says that it was this driver, whoever is
  killed, whatever is flushed or renamed, to every engine on the host. A 1 is somebody else's wish, also if it is
  written later: then nothing is dropped any more, from the next start of a container on, and nothing turned off.
* Where `net.ipv4.ip_forward` is on, the host is a router by itself and nothing is turned on.

Nobody has to lock: a network's bridge is in the table before its maker looks which interfaces forward, and whoever
removes the last one turns forwarding on again if the kernel refuses to delete the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel import sysctl
from plugengine.kernel.netlink import NetlinkSocket
from plugengine.kernel.rtnetlink import Link

from plugengine_net_bridge import table
from plugengine_net_bridge.names import marked_network

_OFF = 0
_ON = 1
_OURS = 2
_LOOPBACK = "lo"


class Guard(NamedTuple):
    """Indexes of interfaces."""

    on: frozenset[int]  # forward for the networks only
    off: frozenset[int]  # forward by themselves


class Interfaces:
    """What packets are routed by, and whether the host may be made to forward what comes in by them."""

    def __init__(self, links: list[Link], *, router: bool) -> None:
        self._links = links
        self._router = router

    def find(self, name: str) -> Link | None:
        """Return the link of a name."""
        return next((link for link in self._links if link.name == name), None)

    def closed(self) -> list[Link]:
        """Return those that forwarding has to be turned on for, without the networks' bridges."""
        others = (link for link in self._links if link.name != _LOOPBACK and marked_network(link) is None)
        return [] if self._router else [link for link in others if link.forwarding == _OFF]

    def opened(self) -> list[Link]:
        """Return those that forwarding was turned on for."""
        return [link for link in self._links if link.forwarding == _OURS]

    def guard(self, *, opening: bool) -> Guard:
        """Return which are to be guarded, and which not; `opening`: forwarding is going to be turned on."""
        on = [*self.opened(), *(self.closed() if opening else ())]
        off = (link for link in self._links if link.forwarding not in (_OFF, _OURS))
        return Guard(frozenset(link.index for link in on), frozenset(link.index for link in off))


def look(rtnetlink: NetlinkSocket) -> Interfaces:
    """Look at the interfaces."""
    router = sysctl.read(sysctl.IP_FORWARD) != str(_OFF)
    return Interfaces(rtnl.find_without_master(rtnetlink), router=router)


def turn_on(host: Interfaces, bridge: str) -> None:
    """Have the host forward what comes in by a bridge, and what comes back to it; the table is complete."""
    _write(_OURS, host.closed())
    link = host.find(bridge)
    if link is not None and link.forwarding == _OFF:
        _write(_ON, [link])


def give_back(nf: NetlinkSocket, rtnetlink: NetlinkSocket) -> None:
    """Turn off what was turned on, and remove the table, if there is no network any more."""
    links = rtnl.find_without_master(rtnetlink)
    if table.bridges(nf) or any(marked_network(link) is not None for link in links):
        return
    opened = [link for link in links if link.forwarding == _OURS]
    _write(_OFF, opened)
    if not table.remove_when_unused(nf):
        _write(_OURS, opened)


def _write(value: int, links: Iterable[Link]) -> None:
    for link in links:
        try:
            sysctl.write(sysctl.forwarding(link.name), str(value))
        except FileNotFoundError:
            continue  # it is gone

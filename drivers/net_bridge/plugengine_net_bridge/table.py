"""The packet filter table of every bridge network: fixed rules, and sets that say what they apply to.

    prerouting, output   published ports: rewrite the destination
    postrouting          containers leave with the host's address; so do those that meet through a published port
    forward              between containers of one network, out, and in to published ports; nothing else in
    raw                  127.0.0.0/8 never crosses a bridge, see `published ports` in ports.py

A network is one element in a few sets, a published port is one element of a map: nothing is read, changed and written
back, so any number of processes can work at once.
"""

from __future__ import annotations

import errno

from plugengine.kernel.netlink import NetlinkSocket, Request

from plugengine_net_bridge import nft
from plugengine_net_bridge.expressions import (
    connection_is_dnat,
    connection_is_known,
    dnat_by_address_and_port,
    dnat_by_port,
    from_addresses,
    from_loopback_network,
    in_interface,
    interfaces,
    masquerade,
    out_interface,
    to_local_address,
    to_loopback_network,
    verdict,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine_net_bridge.rtnl import Prefix

TABLE = "plugengine"
BRIDGES = "bridges"  # interface names
LINKS = "links"  # (in, out) pairs of interface names between which everything may pass: a bridge and itself
INTERNAL = "internal"  # bridges of networks without a way out
SUBNETS = "subnets"
PORTS = "ports"  # (protocol, port) -> (address, port), on every address of the host
PORTS_AT = "ports_at"  # (protocol, address, port) -> (address, port)

# include/uapi/linux/netfilter_ipv4.h, enum nf_ip_hook_priorities
NF_IP_PRI_RAW = -300
NF_IP_PRI_NAT_DST = -100
NF_IP_PRI_FILTER = 0
NF_IP_PRI_NAT_SRC = 100

_DROP = verdict(nft.NF_DROP)
_ACCEPT = verdict(nft.NF_ACCEPT)
_PUBLISHED = (
    (to_local_address(), dnat_by_address_and_port(PORTS_AT)),
    (to_local_address(), dnat_by_port(PORTS)),
)

# (name, type, hook, priority, rules)
_CHAINS: tuple[tuple[str, str, int, int, tuple[tuple[bytes, ...], ...]], ...] = (
    (
        "raw",
        "filter",
        nft.NF_INET_PRE_ROUTING,
        NF_IP_PRI_RAW,
        (
            # With route_localnet on a bridge the kernel no longer refuses these; CVE-2020-8558.
            (in_interface(BRIDGES), to_loopback_network(), _DROP),
            (in_interface(BRIDGES), from_loopback_network(), _DROP),
        ),
    ),
    (
        "prerouting",
        "nat",
        nft.NF_INET_PRE_ROUTING,
        NF_IP_PRI_NAT_DST,
        # A port published on 127.0.0.1 is for this host: without the first rule a neighbour that sends a packet
        # to 127.0.0.1 here would reach it, as the destination is rewritten before the kernel refuses it.
        ((to_loopback_network(), verdict(nft.NFT_RETURN)), *_PUBLISHED),
    ),
    ("output", "nat", nft.NF_INET_LOCAL_OUT, NF_IP_PRI_NAT_DST, _PUBLISHED),
    (
        "postrouting",
        "nat",
        nft.NF_INET_POST_ROUTING,
        NF_IP_PRI_NAT_SRC,
        (
            # From the host's 127.0.0.1 to a container, which could not answer that address.
            (out_interface(BRIDGES), from_loopback_network(), masquerade()),
            # From a container through a published port to one of its own network: the answer must come back here.
            (out_interface(BRIDGES), connection_is_dnat(), from_addresses(SUBNETS), masquerade()),
            (in_interface(BRIDGES), out_interface(BRIDGES, inverted=True), masquerade()),
        ),
    ),
    (
        "forward",
        "filter",
        nft.NF_INET_FORWARD,
        NF_IP_PRI_FILTER,
        (
            (connection_is_known(), _ACCEPT),
            (interfaces(LINKS), _ACCEPT),
            (in_interface(INTERNAL), _DROP),
            (out_interface(INTERNAL), _DROP),
            (connection_is_dnat(), _ACCEPT),
            (out_interface(BRIDGES), _DROP),
        ),
    ),
)


def definition() -> list[Request]:
    """Return the requests that make the table what it should be, whatever it was; elements are kept."""
    ports_key = nft.concatenated(nft.TYPE_INET_PROTO, nft.TYPE_INET_SERVICE)
    ports_at_key = nft.concatenated(nft.TYPE_INET_PROTO, nft.TYPE_IPV4_ADDR, nft.TYPE_INET_SERVICE)
    target = nft.concatenated(nft.TYPE_IPV4_ADDR, nft.TYPE_INET_SERVICE)
    pair = nft.concatenated(nft.TYPE_IFNAME, nft.TYPE_IFNAME)
    requests = [
        nft.new_table(TABLE),
        nft.new_set(TABLE, BRIDGES, 1, key=nft.TYPE_IFNAME, key_bytes=nft.IFNAMSIZ),
        nft.new_set(TABLE, LINKS, 2, key=pair, key_bytes=2 * nft.IFNAMSIZ),
        nft.new_set(TABLE, INTERNAL, 3, key=nft.TYPE_IFNAME, key_bytes=nft.IFNAMSIZ),
        nft.new_set(TABLE, SUBNETS, 4, key=nft.TYPE_IPV4_ADDR, key_bytes=4, flags=nft.NFT_SET_INTERVAL),
        nft.new_set(TABLE, PORTS, 5, key=ports_key, key_bytes=8, data=target, data_bytes=8),
        nft.new_set(TABLE, PORTS_AT, 6, key=ports_at_key, key_bytes=12, data=target, data_bytes=8),
    ]
    for name, kind, hook, priority, rules in _CHAINS:
        requests.append(nft.new_chain(TABLE, name, kind=kind, hook=hook, priority=priority))
        requests.append(nft.flush_chain(TABLE, name))
        requests += [nft.new_rule(TABLE, name, rule) for rule in rules]
    return requests


def ensure(nf: NetlinkSocket, bridge: str, subnet: Prefix, *, internal: bool) -> None:
    """Make or mend the table and the elements of one network; quick when all is there."""
    if _complete(nf, bridge, subnet, internal=internal):
        return
    requests = definition()
    for name, elements in _network_elements(bridge, subnet).items():
        requests.append(nft.add_elements(TABLE, name, *elements))
    if internal:
        requests.append(nft.add_elements(TABLE, INTERNAL, nft.element(nft.interface_key(bridge))))
    nf.execute(*nft.batch(requests))


def forget(nf: NetlinkSocket, bridge: str, subnet: Prefix | None) -> None:
    """Remove one network's elements, and the table when it was the last."""
    gone = frozenset((errno.ENOENT,))
    sets = _network_elements(bridge, subnet)
    sets[INTERNAL] = [nft.element(nft.interface_key(bridge))]
    for name, elements in sets.items():
        nf.execute(*nft.batch([nft.delete_elements(TABLE, name, *elements)]), accept=gone)
    remove_when_unused(nf)


def remove_when_unused(nf: NetlinkSocket) -> None:
    """Remove the table if it has no network; the kernel decides, so a network made meanwhile is safe."""
    requests = [nft.flush_chain(TABLE, chain[0]) for chain in _CHAINS]
    requests += [nft.delete_empty_set(TABLE, BRIDGES), nft.delete_table(TABLE)]
    nf.execute(*nft.batch(requests), accept=frozenset((errno.ENOENT, errno.EBUSY)))


def bridges(nf: NetlinkSocket) -> list[str]:
    """Return the bridges the table knows; none when there is no table."""
    found = elements(nf, BRIDGES)
    return [key.rstrip(b"\0").decode(errors="replace") for key, _, _ in found]


def elements(nf: NetlinkSocket, name: str) -> list[tuple[bytes, bytes, str]]:
    """Return (key, data, comment) of every element of a set; none when there is no table."""
    try:
        replies = nf.get(nft.get_elements(TABLE, name))
    except FileNotFoundError:
        return []
    return [one for _, body in replies for one in nft.parse_elements(body)]


def _complete(nf: NetlinkSocket, bridge: str, subnet: Prefix, *, internal: bool) -> bool:
    questions = [nft.get_chain(TABLE, chain[0]) for chain in _CHAINS]
    for name, (first, *_) in _network_elements(bridge, subnet).items():
        questions.append(nft.get_elements(TABLE, name, first))
    if internal:
        questions.append(nft.get_elements(TABLE, INTERNAL, nft.element(nft.interface_key(bridge))))
    answers = nf.exchange(questions)
    if any(answer.error is not None for answer in answers):
        return False
    # Someone may have flushed a chain: NFTA_CHAIN_USE counts its rules.
    for answer, chain in zip(answers, _CHAINS, strict=False):
        use = nft.reply_attributes(answer.replies[0][1]).get(nft.NFTA_CHAIN_USE, b"")
        if not use or nft.be32(use) != len(chain[-1]):
            return False
    return True


def _network_elements(bridge: str, subnet: Prefix | None) -> dict[str, list[bytes]]:
    key = nft.interface_key(bridge)
    found = {BRIDGES: [nft.element(key)], LINKS: [nft.element(key + key)]}
    if subnet is not None:
        first, behind = subnet.first.to_bytes(4, "big"), (subnet.last + 1).to_bytes(4, "big")
        found[SUBNETS] = [nft.element(first), nft.element(behind, flags=nft.NFT_SET_ELEM_INTERVAL_END)]
    return found

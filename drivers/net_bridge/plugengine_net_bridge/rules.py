"""The rules of the packet filter table; pure.

raw                  127.0.0.0/8 never crosses a bridge, see ports.py
prerouting, output   published ports: rewrite the destination
postrouting          containers leave with the host's address; so do those that meet through a published port
forward              between containers of one network, out, and in to published ports; nothing else in; and nothing
                     from elsewhere to elsewhere that the host would not have forwarded by itself, see forwarding.py
"""

from __future__ import annotations

from plugengine.kernel.netlink import Request

from plugengine_net_bridge import nft
from plugengine_net_bridge.expressions import (
    connection_is_dnat,
    connection_is_known,
    dnat_by_address_and_port,
    dnat_by_port,
    from_addresses,
    from_loopback_network,
    in_interface,
    in_interface_index,
    interfaces,
    masquerade,
    out_interface,
    to_local_address,
    to_loopback_network,
    verdict,
)
from plugengine_net_bridge.table import BRIDGES, GUARDED, INTERNAL, LINKS, PORTS, PORTS_AT, SUBNETS, TABLE

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
            (in_interface_index(GUARDED), _DROP),
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
        nft.new_set(TABLE, GUARDED, 7, key=nft.TYPE_IFINDEX, key_bytes=4),
    ]
    for name, kind, hook, priority, rules in _CHAINS:
        requests.append(nft.new_chain(TABLE, name, kind=kind, hook=hook, priority=priority))
        requests.append(nft.flush_chain(TABLE, name))
        requests += [nft.new_rule(TABLE, name, rule) for rule in rules]
    return requests

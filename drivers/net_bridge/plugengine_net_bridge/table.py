"""The packet filter table of every bridge network: fixed rules (rules.py), and sets that say what they apply to.

A network is one element in a few sets, a published port is one element of a map: nothing is read, changed and written
back, so any number of processes can work at once.
"""

from __future__ import annotations

import errno

from plugengine.kernel.netlink import NetlinkSocket

from plugengine_net_bridge import nft

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

# Chains, and how many rules each has; the rules themselves are in rules.py, which only a repair has to import.
CHAINS = (("raw", 2), ("prerouting", 3), ("output", 2), ("postrouting", 3), ("forward", 6))


def ensure(nf: NetlinkSocket, bridge: str, subnet: Prefix, *, internal: bool) -> None:
    """Make or mend the table and the elements of one network; quick when all is there."""
    if _complete(nf, bridge, subnet, internal=internal):
        return
    from plugengine_net_bridge.rules import definition

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
    requests = [nft.flush_chain(TABLE, chain[0]) for chain in CHAINS]
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
    questions = [nft.get_chain(TABLE, chain[0]) for chain in CHAINS]
    for name, (first, *_) in _network_elements(bridge, subnet).items():
        questions.append(nft.get_elements(TABLE, name, first))
    if internal:
        questions.append(nft.get_elements(TABLE, INTERNAL, nft.element(nft.interface_key(bridge))))
    answers = nf.exchange(questions)
    if any(answer.error is not None for answer in answers):
        return False
    # Someone may have flushed a chain: NFTA_CHAIN_USE counts its rules.
    for answer, (_, rules) in zip(answers, CHAINS, strict=False):
        use = nft.reply_attributes(answer.replies[0][1]).get(nft.NFTA_CHAIN_USE, b"")
        if not use or nft.be32(use) != rules:
            return False
    return True


def _network_elements(bridge: str, subnet: Prefix | None) -> dict[str, list[bytes]]:
    key = nft.interface_key(bridge)
    found = {BRIDGES: [nft.element(key)], LINKS: [nft.element(key + key)]}
    if subnet is not None:
        first, behind = subnet.first.to_bytes(4, "big"), (subnet.last + 1).to_bytes(4, "big")
        found[SUBNETS] = [nft.element(first), nft.element(behind, flags=nft.NFT_SET_ELEM_INTERVAL_END)]
    return found

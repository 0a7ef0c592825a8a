"""The packet filter table of every bridge network: fixed rules (rules.py), and sets that say what they apply to.

A network is one element in a few sets, a published port is one element of a map: nothing is read, changed and written
back, so any number of processes can work at once.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from plugengine.kernel.netlink import NetlinkSocket
from plugengine.kernel.rtnetlink import Prefix

from plugengine_net_bridge import nft

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine_net_bridge.forwarding import Guard

TABLE = "plugengine"
BRIDGES = "bridges"  # interface names
LINKS = "links"  # (in, out) pairs of interface names between which everything may pass: a bridge and itself
INTERNAL = "internal"  # bridges of networks without a way out
SUBNETS = "subnets"
PORTS = "ports"  # (protocol, port) -> (address, port), on every address of the host
PORTS_AT = "ports_at"  # (protocol, address, port) -> (address, port)
GUARDED = "guarded"  # indexes of interfaces that forward for the networks only; see forwarding.py

# Chains, and how many rules each has; the rules themselves are in rules.py, which only a repair has to import.
CHAINS = (("raw", 2), ("prerouting", 3), ("output", 2), ("postrouting", 3), ("forward", 7))

_GONE = frozenset((errno.ENOENT,))


class Note(NamedTuple):
    """What the table remembers of a bridge, as the comment of its element: all that is needed to remove the rest."""

    subnet: str
    engine: str  # the mark of whose it is
    internal: bool = False

    @property
    def text(self) -> str:
        """Return the comment."""
        return " ".join((self.subnet, self.engine, *(("internal",) if self.internal else ())))

    @classmethod
    def parse(cls, text: str) -> Note:
        """Return what a comment says; somebody may have put the element in again by hand, without one."""
        words = [*text.split(), "", "", ""]
        return cls(words[0], words[1], words[2] == "internal")


def ensure(nf: NetlinkSocket, bridge: str, note: Note, guard: Guard) -> bool:
    """Make or repair the table, the elements of one network and the guard; quick when all is there.

    Returns:
        Whether something was not as it should be.
    """
    if _complete(nf, bridge, note, guard):
        return False
    from plugengine_net_bridge.rules import definition

    if _notes(nf).get(bridge, note) != note:
        forget(nf, bridge)  # a network of that name that was another one
    added = [nft.add_elements(TABLE, name, *found) for name, found in _network_elements(bridge, note).items()]
    if guard.on:
        added.append(nft.add_elements(TABLE, GUARDED, *map(_guarded_element, guard.on)))
    nf.execute(*nft.batch([*definition(), *added]))
    for index in _guarded(nf) & guard.off:
        delete = nft.delete_elements(TABLE, GUARDED, _guarded_element(index))
        nf.execute(*nft.batch([delete]), accept=_GONE)
    return True


def forget(nf: NetlinkSocket, bridge: str, subnet: str | None = None) -> None:
    """Remove one network's elements, unless it has another subnet than given."""
    note = _notes(nf).get(bridge)
    if note is not None and subnet in (None, "", note.subnet):
        # The one that remembers the others goes last.
        for name, found in reversed(_network_elements(bridge, note).items()):
            nf.execute(*nft.batch([nft.delete_elements(TABLE, name, *found)]), accept=_GONE)


def remove_when_unused(nf: NetlinkSocket) -> bool:
    """Remove the table if it has no network; the kernel decides, so a network made meanwhile is safe.

    Returns:
        Whether it is gone.
    """
    requests = [nft.flush_chain(TABLE, chain) for chain, _ in CHAINS]
    requests += [nft.delete_empty_set(TABLE, BRIDGES), nft.delete_table(TABLE)]
    answers = nf.execute(*nft.batch(requests), accept=_GONE | {errno.EBUSY})
    return all(answer.error is None or answer.error.errno != errno.EBUSY for answer in answers)


def bridges(nf: NetlinkSocket) -> dict[str, str]:
    """Return the bridges the table knows, each with the mark of whose it is; none when there is no table."""
    return {bridge: note.engine for bridge, note in _notes(nf).items()}


def elements(nf: NetlinkSocket, name: str) -> list[tuple[bytes, bytes, str]]:
    """Return (key, data, comment) of every element of a set; none when there is no table."""
    try:
        replies = nf.get(nft.get_elements(TABLE, name))
    except FileNotFoundError:
        return []
    return [one for _, body in replies for one in nft.parse_elements(body)]


def _complete(nf: NetlinkSocket, bridge: str, note: Note, guard: Guard) -> bool:
    questions = [nft.get_chain(TABLE, chain) for chain, _ in CHAINS]
    for name, (first, *_) in _network_elements(bridge, note).items():
        questions.append(nft.get_elements(TABLE, name, first))
    answers = nf.exchange([*questions, nft.get_elements(TABLE, GUARDED)])
    if any(answer.error is not None or answer.interrupted for answer in answers):
        return False
    # Someone may have flushed a chain: NFTA_CHAIN_USE counts its rules.
    for answer, (_, rules) in zip(answers, CHAINS, strict=False):
        use = nft.reply_attributes(answer.replies[0][1]).get(nft.NFTA_CHAIN_USE, b"")
        if not use or nft.be32(use) != rules:
            return False
    ((_, body),) = answers[len(CHAINS)].replies
    if [comment for _, _, comment in nft.parse_elements(body)] != [note.text]:
        return False
    guarded = _indexes(answers[-1].replies)
    return guard.on <= guarded and not guard.off & guarded


def _guarded(nf: NetlinkSocket) -> frozenset[int]:
    return _indexes(nf.get(nft.get_elements(TABLE, GUARDED)))


def _indexes(replies: list[tuple[int, bytes]]) -> frozenset[int]:
    return frozenset(nft.key_index(key) for _, body in replies for key, _, _ in nft.parse_elements(body))


def _guarded_element(index: int) -> bytes:
    return nft.element(nft.index_key(index))


def _notes(nf: NetlinkSocket) -> dict[str, Note]:
    """Return what the table remembers of each bridge."""
    return {_interface(key): Note.parse(comment) for key, _, comment in elements(nf, BRIDGES)}


def _interface(key: bytes) -> str:
    return key.rstrip(b"\0").decode(errors="replace")


def _network_elements(bridge: str, note: Note) -> dict[str, list[bytes]]:
    """Return the elements of one network by set; the first has a note from which all can be told."""
    key = nft.interface_key(bridge)
    found = {BRIDGES: [nft.element(key, comment=note.text)], LINKS: [nft.element(key + key)]}
    if note.subnet:
        subnet = Prefix(note.subnet)
        first, behind = subnet.first.to_bytes(4, "big"), (subnet.last + 1).to_bytes(4, "big")
        found[SUBNETS] = [nft.element(first), nft.element(behind, flags=nft.NFT_SET_ELEM_INTERVAL_END)]
    if note.internal:
        found[INTERNAL] = [nft.element(key)]
    return found

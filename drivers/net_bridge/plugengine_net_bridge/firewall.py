"""Live with a firewall that drops what it does not know: the chain FORWARD of iptables-nft with the policy DROP.

Docker sets that policy, and ufw does. A packet must pass every table, so our own rules can't help: without a word in
that chain no container would reach the outside, and no published port would be reached. The word is two rules at the
chain's end, where whatever the administrator has decided goes first. What may reach a container stays decided by our
own table. The rules name their bridge, and go with it.
"""

from __future__ import annotations

import errno

from plugengine.kernel.netlink import NetlinkSocket

from plugengine_net_bridge import nft

TABLE = "filter"
CHAIN = "FORWARD"

_ATTEMPTS = 50
_GONE = frozenset((errno.ENOENT,))


def let_pass(nf: NetlinkSocket, bridge: str) -> bool:
    """Add the rules for a bridge where they are needed and missing; return whether they are needed."""
    for _ in range(_ATTEMPTS):
        (answer,) = nf.exchange([nft.get_chain(TABLE, CHAIN)])
        if not _drops(answer.replies):
            return False
        generation = nft.generation(nf)
        if _ours(nf, bridge):
            return True
        from plugengine_net_bridge.expressions import in_interface_is, out_interface_is, verdict

        accept = verdict(nft.NF_ACCEPT)
        rules = [
            nft.new_rule(TABLE, CHAIN, (match, accept), comment=_comment(bridge))
            for match in (in_interface_is(bridge), out_interface_is(bridge))
        ]
        try:
            nf.execute(*nft.batch(rules, generation=generation))
        except OSError as exc:
            if exc.errno != errno.ERESTART:
                raise
        else:
            return True
    raise OSError(errno.EBUSY, "rules change faster than they can be read", f"chain {TABLE} {CHAIN}")


def withdraw(nf: NetlinkSocket, bridge: str) -> None:
    """Remove the rules for a bridge."""
    for handle in _ours(nf, bridge):
        nf.execute(*nft.batch([nft.delete_rule(TABLE, CHAIN, handle)]), accept=_GONE)


def _drops(replies: list[tuple[int, bytes]]) -> bool:
    return any(
        nft.reply_attributes(body).get(nft.NFTA_CHAIN_POLICY) == nft.NF_DROP.to_bytes(4, "big") for _, body in replies
    )


def _ours(nf: NetlinkSocket, bridge: str) -> list[bytes]:
    """Return the handles of our rules."""
    try:
        replies = nf.get(nft.get_rules(TABLE, CHAIN))
    except FileNotFoundError:
        return []
    found = []
    for _, body in replies:
        parts = nft.reply_attributes(body)
        if nft.parse_comment(parts.get(nft.NFTA_RULE_USERDATA, b"")) == _comment(bridge):
            found.append(parts[nft.NFTA_RULE_HANDLE])
    return found


def _comment(bridge: str) -> str:
    return f"plugengine {bridge}"

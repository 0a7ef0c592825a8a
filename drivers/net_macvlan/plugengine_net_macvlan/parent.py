"""The host's side of a macvlan network: its parent, a link that is there or a VLAN made for it."""

from __future__ import annotations

import difflib
import errno
import os
import zlib

from plugengine.errors import ConflictError, DriverError, UsageError
from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel.links import IFNAMSIZ
from plugengine.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from plugengine.kernel.rtnetlink import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.model import Network, Record

MODES = {
    "bridge": rtnl.MACVLAN_MODE_BRIDGE,
    "private": rtnl.MACVLAN_MODE_PRIVATE,
    "vepa": rtnl.MACVLAN_MODE_VEPA,
    "passthru": rtnl.MACVLAN_MODE_PASSTHRU,
}
_MARK = "plugengine network "
_LAST_VLAN = 4094  # IEEE 802.1Q
_HAVE = frozenset((errno.EEXIST,))


def ensure(network: Network) -> Record:
    """Make, or repair, the parent; see `pe_network_create`."""
    name = parent_of(network)
    try:
        with NetlinkSocket(NETLINK_ROUTE) as host:
            link = rtnl.find(host, name)
            if link is None and (vlan := _vlan(name)) is not None:
                link = _make_vlan(host, network, name, *vlan)
            if link is None:
                raise _no_parent(host, network, name)
            check_mtu(network, network.options["mtu"], link)
            return {"parent": name, "made": link.alias == _MARK + _label(network)}
    except OSError as exc:
        raise DriverError(
            f"make network {network.name}: {exc.strerror} ({exc.filename})", hint=_hint(exc, name)
        ) from exc


def release(network: Network, record: Record | None) -> None:
    """Remove the VLAN that was made for a network; see `pe_network_remove`."""
    name = str((record or {}).get("parent") or network.options.get("parent") or "")
    if not name:
        return
    try:
        with NetlinkSocket(NETLINK_ROUTE) as host:
            link = rtnl.find(host, name)
            if link is not None and link.alias == _MARK + _label(network):
                rtnl.delete(host, name)
    except OSError as exc:
        raise DriverError(f"remove network {network.name}: {exc.strerror} ({exc.filename})") from exc


def parent_of(network: Network) -> str:
    """Return the option `parent`.

    Raises:
        UsageError: There is none, or it is no name for a link.
    """
    name = str(network.options["parent"] or "")
    if not name:
        with NetlinkSocket(NETLINK_ROUTE) as host:
            raise UsageError(
                f"network {network.name}: macvlan needs a parent",
                hint=f"pe network create -d macvlan -o parent=LINK NAME; links here: {_candidates(host)}",
            )
    if len(os.fsencode(name)) >= IFNAMSIZ or set(name) & set("/ \t\n"):
        raise UsageError(f"network {network.name}: parent {name!r} is no name for a link")
    return name


def mode_of(network: Network) -> int:
    """Return the option `mode` as the kernel's number."""
    return MODES[network.options["mode"]]


def check_mtu(network: Network, mtu: int | None, parent: Link) -> None:
    """Refuse an option `mtu` that is larger than the parent's."""
    if mtu is not None and mtu > parent.mtu:
        raise UsageError(f"network {network.name}: mtu {mtu}: more than {parent.mtu}, that of its parent {parent.name}")


def reasons() -> list[str]:
    """Return why this host cannot run macvlan networks: asked in a way that can't succeed."""
    try:
        with NetlinkSocket(NETLINK_ROUTE) as rtnetlink:
            (answer,) = rtnetlink.exchange([rtnl.malformed_link("macvlan")])
    except OSError as exc:
        return [f"netlink: {exc.strerror}"]
    if answer.error is not None and answer.error.errno in (errno.EPERM, errno.EACCES):
        return ["needs root: no CAP_NET_ADMIN in this network namespace"]
    if answer.error is not None and answer.error.errno == errno.EOPNOTSUPP:
        return ["the kernel has no macvlan links: load the module macvlan"]
    return []


def _vlan(name: str) -> tuple[str, int] | None:
    """Return (link, number) of a name such as eth0.50."""
    link, dot, number = name.rpartition(".")
    if not dot or not number.isdecimal() or not 0 < int(number) <= _LAST_VLAN:
        return None
    return link, int(number)


def _make_vlan(host: NetlinkSocket, network: Network, name: str, below: str, number: int) -> Link | None:
    base = rtnl.find(host, below)
    if base is None:
        return None
    # In one send: whoever is killed here leaves a link with a mark, or none.
    host.execute(
        rtnl.new_vlan(name, parent=base.index, number=number),
        rtnl.set_alias(name, _MARK + _label(network)),
        accept=_HAVE,
    )
    return rtnl.find(host, name)


def _no_parent(host: NetlinkSocket, network: Network, name: str) -> UsageError | ConflictError:
    names = [link.name for link in rtnl.find_all(host)]
    wanted, dot, number = name.partition(".")
    close = [f"{each}{dot}{number}" for each in difflib.get_close_matches(wanted, names, n=1)]
    close = close or difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"links here: {_candidates(host)}"
    return UsageError(f"network {network.name}: no link {name} to be its parent", hint=hint)


def _candidates(host: NetlinkSocket) -> str:
    return ", ".join(link.name for link in rtnl.find_all(host) if link.name != "lo") or "none"


def _hint(exc: OSError, name: str) -> str | None:
    if exc.errno == errno.EOPNOTSUPP and _vlan(name) is not None:
        return "the kernel has no VLAN links: load the module 8021q"
    return "run as root" if exc.errno in (errno.EPERM, errno.EACCES) else None


def _label(network: Network) -> str:
    """Return what tells a network from all others on this host: its name, its subnet and whose it is."""
    return f"{network.name} {network.subnet} {zlib.crc32(network.owner.encode()):08x}"

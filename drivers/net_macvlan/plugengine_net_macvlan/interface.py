"""A container's interface on the parent: made, configured and removed inside the container's namespace."""

from __future__ import annotations

import errno
import os
import time
from contextlib import ExitStack, closing

from plugengine.errors import DriverError, UsageError
from plugengine.kernel import netns, sysctl
from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel.addresses import InterfaceSocket, format_mac, mac_of, parse_mac
from plugengine.kernel.links import in_namespace, link_flags
from plugengine.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from plugengine.kernel.rtnetlink import Link, Prefix
from plugengine.model import Attachment, Interface

from plugengine_net_macvlan.parent import check_mtu, mode_of, parent_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.model import Network, NetworkRequest

IFF_RUNNING = 1 << 6  # include/uapi/linux/if.h: frames pass
_MAX_INTERFACES = 32
_CARRIER_ATTEMPTS = 40
_CARRIER_PAUSE_S = 0.0005


class _Wanted:
    """What an interface is to be; pure."""

    def __init__(self, request: NetworkRequest, parent: Link) -> None:
        whose = f"container {request.container_id} on network {request.network.name}"
        if request.address is None:
            raise UsageError(f"{whose}: no address")
        try:
            self.address = Prefix(request.address)
            self.mac = parse_mac(request.mac or mac_of(self.address.address))
        except ValueError as exc:
            raise UsageError(f"{whose}: {exc}") from None
        own = {name for name, value in request.options.items() if request.network.options.get(name) != value}
        if others := own - {"mtu"}:
            raise UsageError(
                f"{whose}: option {min(others)} is for the whole network", hint="a container may choose: mtu"
            )
        self.mtu: int | None = request.options.get("mtu", request.network.options["mtu"])
        check_mtu(request.network, self.mtu, parent)
        self.mode = mode_of(request.network)
        self.gateway = request.network.gateway


def attach(request: NetworkRequest) -> Attachment:
    """Make the interface; see `pe_network_attach`."""
    network = request.network
    try:
        with NetlinkSocket(NETLINK_ROUTE) as host, ExitStack() as undo:
            parent = _find_parent(host, network)
            wanted = _Wanted(request, parent)
            name = _make(host, parent, wanted, request.netns)
            undo.callback(_remove_inside, request.netns, name, wanted.mac)
            _configure(request.netns, name, wanted, parent)
            undo.pop_all()
    except OSError as exc:
        raise DriverError(
            f"connect container {request.container_id} to network {network.name}: {exc.strerror} ({exc.filename})",
            hint=_hint(exc, network),
        ) from exc
    interface = Interface(
        name=name, mac=format_mac(wanted.mac), addresses=(wanted.address.text,), mtu=wanted.mtu or parent.mtu
    )
    record = {"parent": parent.name, "netns": list(netns.identify(request.netns))}
    return Attachment(interfaces=(interface,), gateway=wanted.gateway, record=record)


def detach(network: Network, container_id: str, attachment: Attachment) -> None:
    """Remove the interface where its namespace lives on; see `pe_network_detach`."""
    inode, cookie = attachment.record.get("netns", (0, 0))
    interface = attachment.interfaces[0]
    fd = netns.find(netns.NetnsId(int(inode), int(cookie)))
    if fd is None:
        return
    try:
        _remove_inside(fd, interface.name, parse_mac(str(interface.mac)))
    except OSError as exc:
        raise DriverError(
            f"disconnect container {container_id} from network {network.name}: {exc.strerror} ({exc.filename})"
        ) from exc
    finally:
        os.close(fd)


def _find_parent(host: NetlinkSocket, network: Network) -> Link:
    name = parent_of(network)
    parent = rtnl.find(host, name)
    if parent is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name)
    return parent


def _make(host: NetlinkSocket, parent: Link, wanted: _Wanted, fd: int) -> str:
    """Make the interface where it belongs, so that the host never has it; return its name: the first free ethN."""
    with in_namespace(fd), sysctl.born_without_ipv6():
        for number in range(_MAX_INTERFACES):
            name = f"eth{number}"
            request = rtnl.new_macvlan(
                name, parent=parent.index, mode=wanted.mode, mac=wanted.mac, mtu=wanted.mtu, netns=fd
            )
            (made,) = host.exchange([request])
            if made.error is not None and made.error.errno == errno.EEXIST and _remove_inside(fd, name, wanted.mac):
                (made,) = host.exchange([request])  # it was left by an earlier attempt
            if made.error is None:
                return name
            if made.error.errno != errno.EEXIST:
                raise made.error
    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), f"eth0 to eth{_MAX_INTERFACES - 1}")


def _configure(fd: int, name: str, wanted: _Wanted, parent: Link) -> None:
    with in_namespace(fd), closing(InterfaceSocket()) as inside:
        inside.up("lo")
        inside.set_address(name, wanted.address.packed, wanted.address.length)
        inside.up(name)
        if wanted.gateway is not None:
            try:
                inside.add_default_route(Prefix(f"{wanted.gateway}/32").packed)
            except FileExistsError:
                pass  # the default route of another network, which came first, stays
        # The kernel notes a new carrier in a work queue (link_watch.c); a frame sent before is lost, and the first one
        # is an ARP request, which is repeated after a second.
        for _ in range(_CARRIER_ATTEMPTS if parent.up else 0):
            if link_flags(name) & IFF_RUNNING:
                break
            time.sleep(_CARRIER_PAUSE_S)


def _remove_inside(fd: int, name: str, mac: bytes) -> bool:
    """Delete our interface in a namespace; return whether it was there."""
    with in_namespace(fd), NetlinkSocket(NETLINK_ROUTE) as inside:
        link = rtnl.find(inside, name)
        if link is None or link.kind != "macvlan" or link.mac != mac:
            return False
        rtnl.delete(inside, name)
        return True


def _hint(exc: OSError, network: Network) -> str | None:
    parent = network.options.get("parent", "")
    if exc.errno == errno.EBUSY:
        return f"{parent} is a port of a bridge or another aggregate: use that one as the parent"
    if exc.errno == errno.EADDRINUSE:
        return "another container on this parent has the hardware address"
    if exc.errno == errno.EINVAL:
        return f"mode passthru takes one container alone on {parent}, which nothing else may be on"
    return None

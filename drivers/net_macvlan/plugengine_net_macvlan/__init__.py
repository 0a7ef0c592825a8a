"""Macvlan networks: each container has an interface with a hardware address of its own on a link of the host."""

from __future__ import annotations

from collections.abc import Iterable

from plugengine.errors import NotSupportedError
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.model import (
    Attachment,
    Capability,
    DriverInfo,
    Host,
    Network,
    NetworkRequest,
    NetworkStats,
    Option,
    OptionKind,
    Record,
)

# There is nothing for `pe_network_gc` to remove: a container's interface was never in the host's namespace and goes
# with its own. A VLAN is made after the core has stored its network and removed before the core forgets it; one of a
# network not known here is another engine's.
_INFO = DriverInfo(
    api_version=API_VERSION,
    summary="an interface of the container's own on a link of the host; IPv4",
    capabilities=frozenset((Capability.ADDRESSES,)),
    options=(
        Option(name="parent", help="link of the host, or LINK.NUMBER for a VLAN of it", required=True),
        Option(
            name="mode",
            kind=OptionKind.CHOICE,
            choices=("bridge", "private", "vepa", "passthru"),
            default="bridge",
            help="who may reach whom on the parent; see ip-link(8)",
        ),
        Option(
            name="mtu",
            kind=OptionKind.INTEGER,
            least=68,  # RFC 791: every link must carry it
            help="largest packet in bytes; the parent's if not given",
        ),
    ),
    rank=-10,  # never the default: it works only with an option
)


@hookimpl
def pe_network_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_network_probe(host: Host) -> Iterable[str]:
    """Return the reasons why this host cannot run macvlan networks."""
    from plugengine_net_macvlan.parent import reasons

    return reasons()


@hookimpl
def pe_network_create(network: Network) -> Record:
    """Find the parent, or make the VLAN that is to be it."""
    from plugengine_net_macvlan.parent import ensure

    return ensure(network)


@hookimpl
def pe_network_remove(network: Network, record: Record | None) -> None:
    """Remove the VLAN, if it was made here."""
    from plugengine_net_macvlan.parent import release

    release(network, record)


@hookimpl
def pe_network_attach(request: NetworkRequest) -> Attachment:
    """Make the container's interface, inside its namespace from the first moment."""
    from plugengine_net_macvlan.interface import attach

    if request.ports:
        raise _no_ports(request.network, request.container_id)
    return attach(request)


@hookimpl
def pe_network_detach(request: NetworkRequest, attachment: Attachment | None) -> None:
    """Remove the interface, if its namespace is still there; the host holds nothing of it."""
    from plugengine_net_macvlan.interface import detach

    if attachment is not None:
        detach(request.network, request.container_id, attachment)


@hookimpl
def pe_network_stats(request: NetworkRequest, attachment: Attachment) -> NetworkStats:
    """Return counters, as the container sees them."""
    from plugengine.kernel.netns import counters

    return NetworkStats(**counters(attachment.interfaces[0].name, request.netns)._asdict())


def _no_ports(network: Network, container_id: str) -> NotSupportedError:
    return NotSupportedError(
        f"publish ports of container {container_id} on network {network.name}: macvlan has no ports of the host",
        hint="every port of the container is open to the parent's network, at the container's own address",
    )

"""Bridge networks: a Linux bridge per network, a veth pair per container, NAT and published ports by nf_tables."""

from __future__ import annotations

from collections.abc import Iterable

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

_INFO = DriverInfo(
    api_version=API_VERSION,
    summary="a Linux bridge, NAT and published ports; IPv4",
    capabilities=frozenset((Capability.ADDRESSES, Capability.PORTS)),
    options=(
        Option(name="bridge", help="name of the bridge; pe0 or pe-NETWORK if not given"),
        Option(
            name="mtu",
            kind=OptionKind.INTEGER,
            least=68,  # RFC 791: every link must carry it
            most=65535,
            default="1500",
            help="largest packet in bytes",
        ),
        Option(name="internal", kind=OptionKind.FLAG, default="false", help="true: no way out of the network, nor in"),
    ),
    rank=100,
)


@hookimpl
def pe_network_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_network_probe(host: Host) -> Iterable[str]:
    """Return the reasons why this host cannot run bridge networks."""
    from plugengine_net_bridge.probe import reasons

    return reasons()


@hookimpl
def pe_network_create(network: Network) -> Record:
    """Make, or repair, the bridge and the rules."""
    from plugengine_net_bridge.bridge import create

    return create(network)


@hookimpl
def pe_network_remove(network: Network, record: Record | None) -> None:
    """Remove the bridge and the rules."""
    from plugengine_net_bridge.bridge import remove

    remove(network, record)


@hookimpl
def pe_network_attach(request: NetworkRequest) -> Attachment:
    """Connect a container's network namespace."""
    from plugengine_net_bridge.veth import attach

    return attach(request)


@hookimpl
def pe_network_detach(request: NetworkRequest, attachment: Attachment | None) -> None:
    """Remove everything `pe_network_attach` made on the host."""
    from plugengine_net_bridge.veth import detach

    detach(request.network, request.container_id, attachment)


@hookimpl
def pe_network_ports(request: NetworkRequest, attachment: Attachment) -> Attachment:
    """Replace the published ports of a running container."""
    from plugengine_net_bridge.veth import change_ports

    return change_ports(request.network, request.container_id, attachment, request.ports)


@hookimpl
def pe_network_stats(request: NetworkRequest, attachment: Attachment) -> NetworkStats:
    """Return counters, as the container sees them."""
    from plugengine_net_bridge.veth import stats

    return stats(attachment)


@hookimpl
def pe_network_gc(host: Host, networks: tuple[Network, ...], valid_ids: frozenset[str]) -> Iterable[str]:
    """Remove what belongs to no container and no network."""
    from plugengine_net_bridge.collect import collect

    return collect(host.root, networks, valid_ids)

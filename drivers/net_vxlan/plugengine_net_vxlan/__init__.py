"""VXLAN networks: containers of several hosts on one network, through tunnels between the hosts (RFC 7348)."""

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
    Record,
)

from plugengine_net_vxlan.settings import OPTIONS

_INFO = DriverInfo(
    api_version=API_VERSION,
    summary="containers of several hosts on one network, by VXLAN",
    capabilities=frozenset((Capability.ADDRESSES,)),
    options=OPTIONS,
)


@hookimpl
def pe_network_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_network_probe(host: Host) -> Iterable[str]:
    """Return why this host cannot run it."""
    from plugengine_net_vxlan.probe import reasons

    return reasons()


@hookimpl
def pe_network_create(network: Network) -> Record:
    """Make the bridge and the tunnel, or repair them."""
    from plugengine_net_vxlan.host import create

    return create(network)


@hookimpl
def pe_network_remove(network: Network, record: Record | None) -> None:
    """Remove the tunnel and the bridge."""
    from plugengine_net_vxlan.host import remove

    remove(network)


@hookimpl
def pe_network_attach(request: NetworkRequest) -> Attachment:
    """Connect a container's network namespace."""
    from plugengine_net_vxlan.container import attach

    return attach(request)


@hookimpl
def pe_network_detach(request: NetworkRequest, attachment: Attachment | None) -> None:
    """Remove the pair of links by the host's end."""
    from plugengine_net_vxlan.container import detach

    detach(request.network, request.container_id)


@hookimpl
def pe_network_stats(request: NetworkRequest, attachment: Attachment) -> NetworkStats:
    """Return counters, as the container sees them."""
    from plugengine.kernel.netns import counters

    return NetworkStats(**counters(attachment.interfaces[0].name, request.netns)._asdict())


@hookimpl
def pe_network_gc(host: Host, networks: tuple[Network, ...], valid_ids: frozenset[str]) -> Iterable[str]:
    """Remove this engine's links of no container and no network."""
    from plugengine_net_vxlan.collect import collect

    return collect(host.root, networks, valid_ids)

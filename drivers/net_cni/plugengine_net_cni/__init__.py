"""CNI networks: connects containers with the plugins of the Container Network Interface, versions 0.3.0 to 1.1.0."""

from __future__ import annotations

from collections.abc import Iterable

from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.model import (
    Attachment,
    Capability,
    Deviation,
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
    summary="runs CNI plugins, which also give the addresses",
    capabilities=frozenset((Capability.PORTS,)),
    options=(
        Option(name="conf", kind=OptionKind.PATH, help="file of the network (.conflist, .conf or .json)"),
        Option(
            name="dir",
            kind=OptionKind.PATH,
            default="/etc/cni/net.d",
            help="where the network is looked for by its name, if conf is not given",
        ),
        Option(name="path", default="/opt/cni/bin:/usr/lib/cni", help="directories of the plugins"),
        Option(name="args", default="", help="CNI_ARGS: KEY=VALUE;KEY=VALUE"),
        Option(name="ip", help="address, for plugins with the capability ips"),
        Option(name="mac", help="hardware address, for plugins with the capability mac"),
        Option(
            name="timeout", kind=OptionKind.DURATION, least=1, most=3600, default="20", help="for all plugins together"
        ),
    ),
    rank=-10,  # never the default: it works only with a configuration
    deviations=(
        Deviation(
            cases=("network.crowd.parallel",),
            why="the plugin portmap looks for its chain and then makes it: of two that start at once one may fail",
            sometimes=True,
        ),
    ),
)


@hookimpl
def pe_network_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_network_probe(host: Host) -> Iterable[str]:
    """Return the reasons why this host cannot run CNI networks."""
    from plugengine_net_cni.search import reasons

    return reasons()


@hookimpl
def pe_network_create(network: Network) -> Record:
    """Read the network's configuration, and ask its plugins whether they can."""
    from plugengine_net_cni.attachment import prepare

    return prepare(network)


@hookimpl
def pe_network_remove(network: Network, record: Record | None) -> None:
    """Remove nothing: CNI has no word for a network as such, and what a plugin keeps on the host is the plugin's."""


@hookimpl
def pe_network_attach(request: NetworkRequest) -> Attachment:
    """ADD."""
    from plugengine_net_cni.attachment import attach

    return attach(request)


@hookimpl
def pe_network_detach(request: NetworkRequest, attachment: Attachment | None) -> None:
    """DEL, by what was kept of the ADD."""
    from plugengine_net_cni.attachment import detach

    detach(request.network, request.container_id, attachment)


@hookimpl
def pe_network_ports(request: NetworkRequest, attachment: Attachment) -> Attachment:
    """DEL and ADD the plugins that publish ports, and those that CHECK finds something missing of."""
    from plugengine_net_cni.attachment import change_ports

    return change_ports(request.network, request.container_id, attachment, request.ports)


@hookimpl
def pe_network_stats(request: NetworkRequest, attachment: Attachment) -> NetworkStats:
    """Return counters, as the container sees them."""
    from plugengine.kernel.netns import counters

    if not attachment.interfaces:
        return NetworkStats()
    return NetworkStats(**counters(attachment.interfaces[0].name, request.netns)._asdict())


@hookimpl
def pe_network_gc(host: Host, networks: tuple[Network, ...], valid_ids: frozenset[str]) -> Iterable[str]:
    """DEL what belongs to no container, then GC where the plugins have it."""
    from plugengine_net_cni.collect import collect

    return collect(host.root, networks, valid_ids)

"""Network drivers that are wrong on purpose."""

from __future__ import annotations

import subprocess
from typing import Any

import plugengine_net_bridge as bridge
import plugengine_net_none as none
from msgspec.structs import replace

from plugengine.errors import ConflictError, DriverError
from plugengine.kernel import rtnetlink, sysctl
from plugengine.kernel.links import in_namespace
from plugengine.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from plugengine.model import Attachment, Host, HostPath, Network, NetworkRequest, NetworkStats, Record
from tests.kit.spoiling import Wrong


def forgets_without_attachment(request: NetworkRequest, attachment: Attachment | None) -> None:
    if attachment is not None:
        bridge.pe_network_detach(request, attachment)


def detaches_once_only() -> Any:
    detached: set[str] = set()

    def pe_network_detach(request: NetworkRequest, attachment: Attachment | None) -> None:
        if request.container_id in detached:
            raise DriverError(f"detach container {request.container_id}: it is not attached")
        detached.add(request.container_id)
        bridge.pe_network_detach(request, attachment)

    return pe_network_detach


def remembers_in_memory() -> dict[str, Any]:
    """Know what to remove from memory alone."""
    known: set[str] = set()

    def pe_network_attach(request: NetworkRequest) -> Attachment:
        attachment = bridge.pe_network_attach(request)
        known.add(request.container_id)
        return attachment

    def pe_network_detach(request: NetworkRequest, attachment: Attachment | None) -> None:
        if request.container_id in known:
            bridge.pe_network_detach(request, attachment)

    return {"pe_network_attach": pe_network_attach, "pe_network_detach": pe_network_detach}


def says_another_address(request: NetworkRequest) -> Attachment:
    made = bridge.pe_network_attach(request)
    return replace(made, interfaces=(replace(made.interfaces[0], addresses=("10.88.9.9/16",)),))


def takes_another_address(request: NetworkRequest) -> Attachment:
    return bridge.pe_network_attach(replace(request, address="10.88.9.9/16"))


def only_says_it_published(request: NetworkRequest) -> Attachment:
    return replace(bridge.pe_network_attach(replace(request, ports=())), ports=request.ports)


def leaves_ports_published(request: NetworkRequest, attachment: Attachment | None) -> None:
    kept = None if attachment is None else replace(attachment, ports=())
    bridge.pe_network_detach(request, kept)


def drops_ports(request: NetworkRequest) -> Attachment:
    return none.pe_network_attach(replace(request, ports=()))


def does_not_replace(request: NetworkRequest, attachment: Attachment) -> Attachment:
    added = (*attachment.ports, *(port for port in request.ports if port not in attachment.ports))
    return replace(bridge.pe_network_ports(replace(request, ports=added), attachment), ports=request.ports)


def says_conflict_without_number(request: NetworkRequest) -> Attachment:
    try:
        return bridge.pe_network_attach(request)
    except ConflictError as exc:
        raise ConflictError("a port is taken") from exc


def collects_everything(host: Host, networks: tuple[Network, ...], valid_ids: frozenset[str]) -> Any:
    return bridge.pe_network_gc(host, networks, frozenset())


def collects_nothing(host: Host, networks: tuple[Network, ...], valid_ids: frozenset[str]) -> Any:
    return ()


def collects_of_other_engines(host: Host, networks: tuple[Network, ...], valid_ids: frozenset[str]) -> Any:
    other = replace(host, root=HostPath("/elsewhere/plugengine"))
    return [*bridge.pe_network_gc(host, networks, valid_ids), *bridge.pe_network_gc(other, networks, valid_ids)]


def lets_networks_meet(request: NetworkRequest) -> Attachment:
    made = bridge.pe_network_attach(request)
    subprocess.run(["nft", "flush", "chain", "ip", "plugengine", "forward"], check=True)
    return made


def leaves_ipv6_on(request: NetworkRequest) -> Attachment:
    made = bridge.pe_network_attach(request)
    with in_namespace(request.netns):
        sysctl.write(sysctl.disable_ipv6("eth0"), "0")
    return made


def makes_a_router_of_the_host(network: Network) -> Record:
    made = bridge.pe_network_create(network)
    sysctl.write(sysctl.IP_FORWARD, "1")
    return made


def forwards_forever(network: Network, record: Record) -> None:
    sysctl.write(sysctl.forwarding("kit0"), "1")
    bridge.pe_network_remove(network, record)


def stops_a_router(network: Network, record: Record) -> None:
    bridge.pe_network_remove(network, record)
    sysctl.write(sysctl.IP_FORWARD, "0")


def makes_a_link_each_time() -> Any:
    made = 0

    def pe_network_create(network: Network) -> Record:
        nonlocal made
        made += 1
        _make_link(f"again{made}")
        return bridge.pe_network_create(network)

    return pe_network_create


def makes_only_once() -> Any:
    records: dict[str, Record] = {}

    def pe_network_create(network: Network) -> Record:
        if network.name not in records:
            records[network.name] = bridge.pe_network_create(network)
        return records[network.name]

    return pe_network_create


def leaves_a_link_on_failure(request: NetworkRequest) -> Attachment:
    try:
        return bridge.pe_network_attach(request)
    except DriverError:
        _make_link("left0")
        raise


def keeps_the_bridge(network: Network, record: Record) -> None:
    """Remove nothing."""


def loopback_stays_down(request: NetworkRequest) -> Attachment:
    return Attachment()


def swaps_the_counters(request: NetworkRequest, attachment: Attachment) -> NetworkStats:
    found = bridge.pe_network_stats(request, attachment)
    return replace(found, rx_bytes=found.tx_bytes, tx_bytes=found.rx_bytes)


def ignores_the_mac(request: NetworkRequest) -> Attachment:
    return bridge.pe_network_attach(replace(request, mac=None))


def ignores_the_mtu(request: NetworkRequest) -> Attachment:
    options = {**request.options, "mtu": 1500}
    return bridge.pe_network_attach(replace(request, network=_without_mtu(request.network), options=options))


def ignores_the_mtu_of_the_bridge(network: Network) -> Record:
    return bridge.pe_network_create(_without_mtu(network))


def takes_those_with_a_like_id() -> dict[str, Any]:
    """Find containers by the beginning of their ids."""
    known: dict[str, NetworkRequest] = {}

    def pe_network_attach(request: NetworkRequest) -> Attachment:
        known[request.container_id] = request
        return bridge.pe_network_attach(request)

    def pe_network_detach(request: NetworkRequest, attachment: Attachment | None) -> None:
        for other in [name for name in known if name[:12] == request.container_id[:12]]:
            bridge.pe_network_detach(replace(request, container_id=other), None)
        bridge.pe_network_detach(request, attachment)

    return {"pe_network_attach": pe_network_attach, "pe_network_detach": pe_network_detach}


def _without_mtu(network: Network) -> Network:
    return replace(network, options={**network.options, "mtu": 1500})


def _make_link(name: str) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as route:
        route.execute(rtnetlink.new_bridge(name, mac=bytes.fromhex("020000000009"), mtu=1500))


WRONG = [
    Wrong("forgets_without_attachment", bridge, "network.detach.without-attachment", "left link pe",
          {"pe_network_detach": forgets_without_attachment}),
    Wrong("detaches_once_only", bridge, "network.detach.twice", "it is not attached",
          {"pe_network_detach": detaches_once_only()}),
    Wrong("remembers_in_memory", bridge, "network.record.enough", "left link pe", remembers_in_memory()),
    Wrong("remembers_in_memory_2", bridge, "network.crash.attach", "left (link|element)", remembers_in_memory()),
    Wrong("says_another_address", bridge, "network.attachment.true", "addresses of eth0 .*10.88.9.9",
          {"pe_network_attach": says_another_address}),
    Wrong("takes_another_address", bridge, "network.addresses.lease", "addresses in the attachment: .*10.88.9.9",
          {"pe_network_attach": takes_another_address}),
    Wrong("only_says_it_published", bridge, "network.ports.tcp", "port 8080 is not reached from the world",
          {"pe_network_attach": only_says_it_published}),
    Wrong("leaves_ports_published", bridge, "network.ports.gone", "8080",
          {"pe_network_detach": leaves_ports_published}),
    Wrong("drops_ports", none, "network.ports.not-claimed", "accepted in silence", {"pe_network_attach": drops_ports}),
    Wrong("does_not_replace", bridge, "network.ports.replace", "port 8080 is still reached",
          {"pe_network_ports": does_not_replace}),
    Wrong("says_conflict_without_number", bridge, "network.ports.conflict", "does not name port 8080",
          {"pe_network_attach": says_conflict_without_number}),
    Wrong("collects_everything", bridge, "network.gc.keeps", "in use|of a valid one",
          {"pe_network_gc": collects_everything}),
    Wrong("collects_nothing", bridge, "network.gc.unknown", "after gc: .*left link pe",
          {"pe_network_gc": collects_nothing}),
    Wrong("collects_of_other_engines", bridge, "network.gc.others", "after gc of another engine: .*took away link pe",
          {"pe_network_gc": collects_of_other_engines}),
    Wrong("lets_networks_meet", bridge, "network.isolation.networks", "of another network",
          {"pe_network_attach": lets_networks_meet}),
    Wrong("lets_networks_of_a_router_meet", bridge, "network.isolation.router", "of another network",
          {"pe_network_attach": lets_networks_meet}),
    Wrong("leaves_ipv6_on", bridge, "network.isolation.ipv6", "IPv6 addresses nobody gave it",
          {"pe_network_attach": leaves_ipv6_on}),
    Wrong("makes_a_router_of_the_host", bridge, "network.forwarding.others", "the host forwards from one of its links",
          {"pe_network_create": makes_a_router_of_the_host}),
    Wrong("forwards_forever", bridge, "network.forwarding.restored", "interfaces that forward: .*kit0",
          {"pe_network_remove": forwards_forever}),
    Wrong("stops_a_router", bridge, "network.forwarding.router", "the host no longer forwards",
          {"pe_network_remove": stops_a_router}),
    Wrong("makes_a_link_each_time", bridge, "network.create.twice", "left link again",
          {"pe_network_create": makes_a_link_each_time()}),
    Wrong("makes_only_once", bridge, "network.create.repairs", "took away link pe",
          {"pe_network_create": makes_only_once()}),
    Wrong("leaves_a_link_on_failure", bridge, "network.attach.failure-leaves-nothing", "left link left0",
          {"pe_network_attach": leaves_a_link_on_failure}),
    Wrong("keeps_the_bridge", bridge, "network.remove.twice", "left link pe-kit",
          {"pe_network_remove": keeps_the_bridge}),
    Wrong("loopback_stays_down", none, "network.reach.loopback", "unreachable",
          {"pe_network_attach": loopback_stays_down}),
    Wrong("swaps_the_counters", bridge, "network.stats.count", "counted as sent",
          {"pe_network_stats": swaps_the_counters}),
    Wrong("ignores_the_mac", bridge, "network.attach.mac", "not '02:6b:69:74:00:01'",
          {"pe_network_attach": ignores_the_mac}),
    Wrong("ignores_the_mtu", bridge, "network.option.mtu", "1500, not 1400",
          {"pe_network_attach": ignores_the_mtu, "pe_network_create": ignores_the_mtu_of_the_bridge}),
    Wrong("takes_those_with_a_like_id", bridge, "network.ids.alike", "does not work once",
          takes_those_with_a_like_id()),
]  # fmt: skip

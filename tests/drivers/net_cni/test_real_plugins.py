"""The driver with the plugins of Debian's containernetworking-plugins, in a host's network namespace of its own."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import plugengine_net_cni as cni
import pytest
from plugengine_net_cni import search

from plugengine.errors import DriverError
from plugengine.kernel.links import in_namespace, link_up
from plugengine.model import Network, Port
from tests.conftest import need, need_tool
from tests.drivers.net_bridge.world import talk
from tests.drivers.net_cni.world import Guest, World
from tests.drivers.options import values
from tests.waiting import PATIENCE_S

PATH = "/opt/cni/bin:/usr/lib/cni"
SUBNET = "10.22.0.0/24"


def network(world: World, *plugins: dict[str, Any], version: str = "1.0.0", name: str = "real") -> Network:
    """Return a network of real plugins; host-local keeps its leases with the test."""
    wanted = {str(plugin["type"]) for plugin in plugins}
    missing = sorted(wanted - set(search.installed(PATH)))
    need(f"needs the CNI plugins {', '.join(missing)}" if missing else None)
    conf = world.directory / f"{name}.conflist"
    conf.write_text(json.dumps({"cniVersion": version, "name": name, "plugins": plugins}))
    return Network(name=name, driver="cni", options=values(cni.pe_network_info(), {"conf": str(conf)}))


def ipam(world: World) -> dict[str, Any]:
    ranges = [[{"subnet": SUBNET}]]
    routes = [{"dst": "0.0.0.0/0"}]
    return {"type": "host-local", "dataDir": str(world.directory / "ipam"), "ranges": ranges, "routes": routes}


def bridge(world: World, **more: Any) -> dict[str, Any]:
    return {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": ipam(world), **more}


def leases(world: World) -> list[str]:
    return sorted(path.name for path in (world.directory / "ipam").glob("*/10.*"))


def address(guest: Guest) -> str:
    assert guest.attachment
    return guest.attachment.interfaces[0].addresses[0].partition("/")[0]


def reach(client: Guest, server: Guest) -> bool:
    with closing(server.listen(80)) as listening:
        talk(client.connect(address(server), 80, timeout=PATIENCE_S), listening)
    return True


def rules() -> str:
    return subprocess.run(["iptables-save"], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_bridge_connects_containers_in_every_version(world: World, version: str) -> None:
    lan = network(world, bridge(world), version=version)
    one, two = world.guest(lan), world.guest(lan)
    for guest in (one, two):
        guest.attach()
    assert reach(one, two)
    assert leases(world) == ["10.22.0.2", "10.22.0.3"]
    assert one.attachment
    assert one.attachment.gateway == "10.22.0.1"
    assert one.attachment == one.attach() or version == "0.3.1", "attached once more it is the same"
    one.detach()
    with in_namespace(one.fd):
        assert "eth0" not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    two.close()
    two.detach()
    assert leases(world) == []
    assert world.ledger() == []


def test_masquerading_goes_also_when_the_namespace_is_gone(world: World) -> None:
    need_tool("iptables")
    lan = network(world, bridge(world, ipMasq=True))
    alive, gone = world.guest(lan), world.guest(lan)
    for guest in (alive, gone):
        guest.attach()
    assert rules().count("MASQUERADE") == 2
    alive.detach()
    assert rules().count("MASQUERADE") == 1
    gone.close()
    gone.detach()
    assert "MASQUERADE" not in rules()
    assert ":CNI-" not in rules()


def test_rules_somebody_flushed_do_not_hinder_the_end(world: World) -> None:
    need_tool("iptables")
    guest = world.guest(network(world, bridge(world, ipMasq=True)))
    guest.attach()
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    guest.close()
    guest.detach()
    assert leases(world) == []
    assert world.ledger() == []


def test_portmap_firewall_and_tuning_are_chained(world: World) -> None:
    need_tool("iptables")
    link_up("lo")
    tuning = {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    lan = network(world, bridge(world, hairpinMode=True), portmap, {"type": "firewall"}, tuning)
    guest = world.guest(lan)
    attachment = guest.attach(ports=(Port(host_ip="", host_port=8130, guest_port=80),))
    assert guest.run("cat", "/proc/sys/net/core/somaxconn") == "500\n"
    with closing(guest.listen(80)) as listening:
        import socket

        talk(socket.create_connection(("127.0.0.1", 8130), timeout=PATIENCE_S), listening)
    before = rules()
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert cni.pe_network_ports(guest.request(ports=attachment.ports), attachment) == attachment
    assert [line for line in rules().splitlines() if "8130" in line] == [
        line for line in before.splitlines() if "8130" in line
    ]
    other = cni.pe_network_ports(guest.request(ports=(Port(host_ip="", host_port=8131, guest_port=80),)), attachment)
    assert "8130" not in rules()
    assert "8131" in rules()
    assert cni.pe_network_ports(guest.request(ports=()), other).ports == ()
    assert "8131" not in rules()
    guest.close()
    guest.detach()
    assert "10.22.0." not in rules()
    assert leases(world) == []


def test_ptp_connects_by_the_host(world: World) -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    lan = network(world, {"type": "ptp", "ipam": ipam(world)})
    one, two = world.guest(lan), world.guest(lan)
    for guest in (one, two):
        guest.attach()
    assert reach(one, two)
    for guest in (one, two):
        guest.detach()
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert len(links.splitlines()) == 1, "lo"


def test_macvlan_of_cni_works_as_well(world: World) -> None:
    subprocess.run(["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1"], check=True)
    for name in ("up0", "up1"):
        link_up(name)
    lan = network(world, {"type": "macvlan", "master": "up0", "ipam": ipam(world)})
    one, two = world.guest(lan), world.guest(lan)
    for guest in (one, two):
        guest.attach()
    assert reach(one, two)
    one.close()
    for guest in (one, two):
        guest.detach()
    assert leases(world) == []


def test_loopback_alone_gives_no_interface_of_the_engines(world: World) -> None:
    guest = world.guest(network(world, {"type": "loopback"}))
    attachment = guest.attach()
    assert [each.name for each in attachment.interfaces] in ([], ["lo"])
    guest.detach()


def test_bandwidth_works_or_says_what_the_kernel_lacks(world: World) -> None:
    limits = {"ingressRate": 800_000, "ingressBurst": 80_000, "egressRate": 800_000, "egressBurst": 80_000}
    guest = world.guest(network(world, bridge(world), {"type": "bandwidth", **limits}))
    probe = subprocess.run(["ip", "link", "add", "ifbprobe", "type", "ifb"], check=False, capture_output=True)
    if probe.returncode != 0:
        with pytest.raises(DriverError, match="cni plugin bandwidth: ADD"):
            guest.attach()
    else:
        subprocess.run(["ip", "link", "delete", "ifbprobe"], check=True)
        guest.attach()
        guest.detach()
    assert leases(world) == []


def test_an_exhausted_range_is_the_plugins_error_in_its_words(world: World) -> None:
    small = {**bridge(world), "ipam": {**ipam(world), "ranges": [[{"subnet": "10.22.0.0/30"}]]}}
    lan = network(world, small)
    first, second = world.guest(lan), world.guest(lan)
    first.attach()
    with pytest.raises(DriverError, match=r"cni plugin bridge: ADD .*no IP addresses available"):
        second.attach()
    assert leases(world) == ["10.22.0.2"]

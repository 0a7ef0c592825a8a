"""Network cases: whom a container reaches, and whether the attachment says the truth."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import closing

from plugengine.errors import NotSupportedError, UsageError
from plugengine.model import Capability
from plugengine.testing.cases import case, expect, expect_equal, fail
from plugengine.testing.network import view
from plugengine.testing.network.container import Container
from plugengine.testing.network.net_namespace import EVERYWHERE, PATIENCE_S, question, talk
from plugengine.testing.network.playground import FAR_ADDRESS, HOST_ADDRESS, WORLD_ADDRESS
from plugengine.testing.network.subject import Subject

_PORT = 8000
_MAC = "02:6b:69:74:00:01"
_MTU = 1400
_PAYLOAD = 300_000
_EVERYWHERE_6 = "::"


@case("network.reach.loopback")
def loopback_is_up(subject: Subject) -> None:
    """A container talks to itself at 127.0.0.1."""
    container = subject.attached()
    with closing(container.listen(_PORT, "127.0.0.1")) as server:
        expect_equal(talk(container.connect("127.0.0.1", _PORT), server), "127.0.0.1", "address seen")


@case("network.reach.peers", refused=Capability.HOST_NAMESPACE)
def containers_of_a_network_reach_each_other(subject: Subject) -> None:
    """Containers of one network reach each other by TCP with their own addresses; without an interface, nobody."""
    one, two = subject.attached(), subject.attached()
    if not (one.attached.interfaces and two.attached.interfaces):
        expect_equal((one.addresses, two.addresses), ((), ()), "addresses without interfaces")
        return
    for server_side, client_side in ((one, two), (two, one)):
        with closing(server_side.listen(_PORT)) as server:
            seen = talk(client_side.connect(server_side.address, _PORT), server)
            expect_equal(seen, client_side.address, "the address the other container saw")


@case("network.reach.datagrams", refused=Capability.HOST_NAMESPACE)
def datagrams_are_answered(subject: Subject) -> None:
    """Containers of one network reach each other by UDP."""
    one, two = subject.attached(), subject.attached()
    if one.attached.interfaces:
        with closing(one.bind_udp(_PORT)) as server, closing(two.bind_udp(0)) as client:
            seen = question(client, server, one.address, _PORT)
            expect_equal(seen, two.address, "the address the other container saw")


@case("network.reach.every-address", refused=Capability.HOST_NAMESPACE)
def every_address_is_reached(subject: Subject) -> None:
    """Every address an attachment names, IPv4 and IPv6, is reached from another container of the network."""
    one, two = subject.attached(), subject.attached()
    for address in one.addresses:
        everywhere = _EVERYWHERE_6 if ":" in address else EVERYWHERE
        with closing(one.listen(_PORT, everywhere)) as server:
            talk(two.connect(address, _PORT), server)


@case("network.reach.gateway", refused=Capability.HOST_NAMESPACE)
def the_gateway_answers(subject: Subject) -> None:
    """Where the attachment names a gateway, the default route leads there, and somebody answers at its address."""
    container = subject.attached()
    with container.inside():
        found = {route.gateway for route in view.routes() if route.destination == "default" and route.gateway}
    gateway = container.attached.gateway
    expect_equal({each for each in found if ":" not in each}, {gateway} if gateway else set(), "IPv4 default gateways")
    if gateway:
        # For some networks the host is the router, for others a machine on the segment.
        with closing(subject.here.listen(_PORT)), closing(subject.world.place.listen(_PORT)):
            try:
                container.connect(gateway, _PORT).close()
            except OSError as exc:
                fail(f"nobody answers at the gateway {gateway}: {exc}")


@case("network.reach.world", refused=Capability.HOST_NAMESPACE)
def the_world_is_reached_through_the_gateway(subject: Subject) -> None:
    """With a gateway a container reaches the host's neighbour and machines beyond it; without one it does not."""
    container = subject.attached()
    for address in (WORLD_ADDRESS, FAR_ADDRESS):
        with closing(subject.world.place.listen(_PORT)) as server:
            if container.attached.gateway:
                talk(container.connect(address, _PORT), server)
            else:
                expect(not container.reaches(address, _PORT), f"reached {address} though there is no gateway")


@case("network.reach.world-datagrams", refused=Capability.HOST_NAMESPACE)
def the_world_answers_datagrams(subject: Subject) -> None:
    """With a gateway a container's UDP question to the world is answered, as a resolver's must be."""
    container = subject.attached()
    if container.attached.gateway:
        with closing(subject.world.place.bind_udp(53)) as server, closing(container.bind_udp(0)) as client:
            question(client, server, WORLD_ADDRESS, 53)


@case("network.host-namespace.shared", needs=[Capability.HOST_NAMESPACE])
def the_host_namespace_is_shared(subject: Subject) -> None:
    """A driver that claims HOST_NAMESPACE changes nothing there: the container has what the host has, and no more."""
    links = view.links()
    container = subject.attached()
    expect_equal(container.attached.interfaces, (), "interfaces of the attachment")
    expect_equal(view.links(), links, "links of the host")
    with closing(container.listen(_PORT)) as server:
        talk(subject.world.place.connect(HOST_ADDRESS, _PORT), server)
    with closing(subject.world.place.listen(_PORT)) as server:
        talk(container.connect(WORLD_ADDRESS, _PORT), server)


@case("network.attachment.true", refused=Capability.HOST_NAMESPACE)
def the_attachment_says_what_is_there(subject: Subject) -> None:
    """Names, hardware addresses, addresses and sizes in the attachment are those of the kernel, inside and outside."""
    container = subject.attached()
    outside = view.links()
    with container.inside():
        inside = view.links()
    for interface in container.attached.interfaces:
        link = inside.get(interface.name)
        expect(link, f"interface {interface.name} of the attachment is not in the namespace, which has {set(inside)}")
        if link is None:
            continue
        expect(link.up, f"{interface.name} is down")
        expect_equal(set(interface.addresses), set(link.addresses), f"addresses of {interface.name} in the attachment")
        if interface.mac is not None:
            expect_equal(interface.mac.lower(), link.mac, f"hardware address of {interface.name} in the attachment")
        if interface.mtu is not None:
            expect_equal(interface.mtu, link.mtu, f"mtu of {interface.name} in the attachment")
        if interface.host_name is not None:
            expect(interface.host_name in outside, f"link {interface.host_name} of the attachment is not on the host")


@case("network.attachment.dns")
def resolvers_are_addresses(subject: Subject) -> None:
    """The resolvers in an attachment are addresses, and not of a loopback interface, which the container has too."""
    for text in subject.attached().attached.dns:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            fail(f"resolver {text!r} is not an address")
        else:
            expect(subject.shares_host or not address.is_loopback, f"resolver {text} is the container's own loopback")


@case("network.attach.mac", refused=Capability.HOST_NAMESPACE)
def a_hardware_address_is_used_or_refused(subject: Subject) -> None:
    """A hardware address that is asked for is the interface's; a driver that cannot have it says so."""
    container = subject.container()
    try:
        container.attach(mac=_MAC)
    except (NotSupportedError, UsageError):
        return
    if container.attached.interfaces:
        name = container.attached.interfaces[0].name
        with container.inside():
            expect_equal(view.links()[name].mac, _MAC, f"hardware address of {name}")


@case("network.option.mtu", refused=Capability.HOST_NAMESPACE)
def the_option_mtu_is_obeyed(subject: Subject) -> None:
    """A driver with an option `mtu` gives the interface that size."""
    if not any(option.name == "mtu" for option in subject.driver.info.options):
        return
    container = subject.attached(network=subject.network("kit-small", mtu=str(_MTU)))
    for interface in container.attached.interfaces:
        with container.inside():
            expect_equal(view.links()[interface.name].mtu, _MTU, f"mtu of {interface.name}")
        expect_equal(interface.mtu, _MTU, f"mtu of {interface.name} in the attachment")


@case("network.stats.count", refused=Capability.HOST_NAMESPACE)
def the_counters_count_what_is_sent(subject: Subject) -> None:
    """What a container sends counts as sent by it and received by the other, not the other way around."""
    one, two = subject.attached(), subject.attached()
    if not one.attached.interfaces:
        return
    before = [_stats(subject, each) for each in (one, two)]
    with closing(two.listen(_PORT)) as server, closing(one.connect(two.address, _PORT)) as client:
        _send(client, server)
    after = [_stats(subject, each) for each in (one, two)]
    sent, received = after[0][1] - before[0][1], after[1][0] - before[1][0]
    back = after[0][0] - before[0][0]
    expect(sent >= _PAYLOAD, f"{_PAYLOAD} bytes were sent, {sent} are counted as sent")
    expect(received >= _PAYLOAD, f"{_PAYLOAD} bytes were received, {received} are counted as received")
    expect(back < _PAYLOAD, f"nothing but acknowledgements came back, {back} bytes are counted as received")


def _stats(subject: Subject, container: Container) -> tuple[int, int]:
    found = subject.driver.stats(container.request(), container.attached)
    return found.rx_bytes, found.tx_bytes


def _send(client: socket.socket, server: socket.socket) -> None:
    from threading import Thread

    sender = Thread(target=client.sendall, args=(bytes(_PAYLOAD),))
    sender.start()
    with closing(server.accept()[0]) as accepted:
        accepted.settimeout(PATIENCE_S)
        left = _PAYLOAD
        while left > 0:
            left -= len(accepted.recv(1 << 16)) or left
    sender.join()

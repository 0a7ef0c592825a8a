"""Network cases: whom a container must not reach, and what it must not see."""

from __future__ import annotations

import socket
from contextlib import closing

from plugengine.model import Capability
from plugengine.testing.cases import case, expect, expect_equal
from plugengine.testing.network import view
from plugengine.testing.network.container import Container
from plugengine.testing.network.net_namespace import router
from plugengine.testing.network.playground import FAR_ADDRESS, HOST_ADDRESS, WORLD_ADDRESS
from plugengine.testing.network.subject import Subject

_PORT = 8000
_ONLY_ON_LOOPBACK = 8001


@case("network.isolation.links", refused=Capability.HOST_NAMESPACE)
def a_container_sees_its_own_links_only(subject: Subject) -> None:
    """In the container's namespace are its loopback interface and what the attachment names, nothing else."""
    container = subject.attached()
    with container.inside():
        seen = set(view.links())
    expect_equal(seen, {"lo", *(interface.name for interface in container.attached.interfaces)}, "links inside")


@case("network.isolation.networks", needs=[Capability.ADDRESSES], claim="contract")
def networks_do_not_reach_each_other(subject: Subject) -> None:
    """Containers of two networks do not reach each other, neither by TCP nor by UDP."""
    _expect_apart(subject)


@case("network.isolation.router", needs=[Capability.ADDRESSES], claim="contract")
def networks_of_a_router_do_not_reach_each_other(subject: Subject) -> None:
    """Containers of two networks do not reach each other on a host that forwards between all its interfaces either."""
    with router():
        _expect_apart(subject)


def _expect_apart(subject: Subject) -> None:
    one = subject.attached(network=subject.network("kit-one"))
    two = subject.attached(network=subject.network("kit-two"))
    expect(not set(one.addresses) & set(two.addresses), f"both containers have {one.addresses}")
    for target, source in ((one, two), (two, one)):
        for address in target.addresses:
            with closing(target.listen(_PORT)):
                expect(not source.reaches(address, _PORT), f"{source.addresses} reached {address} of another network")
            with closing(target.bind_udp(_PORT)) as server, closing(source.bind_udp(0)) as client:
                server.settimeout(0.1)
                try:
                    client.sendto(b"boo", (address, _PORT))
                    heard = server.recv(16)
                except OSError:
                    continue
                expect(not heard, f"a datagram of {source.addresses} reached {address} of another network")


@case("network.isolation.host-loopback", refused=Capability.HOST_NAMESPACE)
def the_loopback_of_the_host_is_not_reached(subject: Subject) -> None:
    """What listens at 127.0.0.1 of the host is not reached from a container."""
    container = subject.attached()
    with closing(subject.here.listen(_ONLY_ON_LOOPBACK, "127.0.0.1")):
        targets = ["127.0.0.1", HOST_ADDRESS, *filter(None, [container.attached.gateway])]
        for address in targets:
            expect(not container.reaches(address, _ONLY_ON_LOOPBACK), f"reached the host's loopback at {address}")


@case("network.isolation.ipv6", needs=[Capability.ADDRESSES], claim="contract")
def without_an_ipv6_address_there_is_no_ipv6(subject: Subject) -> None:
    """A container without an IPv6 address has no link-local one either, and reaches nothing the host serves on [::]."""
    container = subject.attached()
    if any(":" in address for address in container.addresses):
        return
    with container.inside():
        found = view.ipv6_addresses()
    outside = {address: link for address, link in found.items() if link != "lo"}
    expect(not outside, f"the container has IPv6 addresses nobody gave it: {outside}")
    _expect_host_apart(subject, container)


def _expect_host_apart(subject: Subject, container: Container) -> None:
    """Try every address of the host's, by each interface of the container."""
    with container.inside():
        scopes = [socket.if_nametoindex(interface.name) for interface in container.attached.interfaces]
    with closing(subject.here.listen(_PORT, "::")):
        for address, link in view.ipv6_addresses().items():
            for scope in scopes:
                reached = link != "lo" and container.reaches(f"{address}%{scope}", _PORT)
                expect(not reached, f"reached the host at {address} of {link}")


@case("network.isolation.no-interface", refused=Capability.HOST_NAMESPACE)
def without_interfaces_nothing_is_reached(subject: Subject) -> None:
    """A container whose attachment names no interface reaches neither the host nor the world."""
    container = subject.attached()
    if container.attached.interfaces:
        return
    expect_equal(container.attached.gateway, None, "the gateway of an attachment without interfaces")
    for place, address in (
        (subject.here, HOST_ADDRESS),
        (subject.world.place, WORLD_ADDRESS),
        (subject.world.place, FAR_ADDRESS),
    ):
        with closing(place.listen(_PORT)):
            expect(not container.reaches(address, _PORT), f"reached {address}")

"""Network cases: leased addresses, one and two hundred at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import msgspec

from plugengine.model import Attachment, Capability, Port, decode, encode
from plugengine.testing.cases import case, expect, expect_equal
from plugengine.testing.children import all_at_once
from plugengine.testing.network import view
from plugengine.testing.network.container import Container
from plugengine.testing.network.host_traces import traces
from plugengine.testing.network.net_namespace import talk
from plugengine.testing.network.subject import Subject, port

_CROWD = 200  # with addresses from the core
_SMALL_CROWD = 16  # where each attach may start programs
_SAMPLE = 8
_PORT = 8000


@case("network.addresses.lease", needs=[Capability.ADDRESSES])
def the_leased_address_is_the_one_used(subject: Subject) -> None:
    """The address given is the container's, with the length of its prefix, in the attachment and in the kernel."""
    container = subject.attached()
    (interface,) = container.attached.interfaces
    expect_equal(interface.addresses, (container.cidr,), "addresses in the attachment")
    with container.inside():
        expect_equal(view.links()[interface.name].addresses, (container.cidr,), f"addresses of {interface.name}")


@case("network.addresses.high", needs=[Capability.ADDRESSES])
def any_address_of_the_subnet_will_do(subject: Subject) -> None:
    """The last address of a subnet is as good as the first."""
    first = subject.attached()
    second = subject.container()
    base, _, length = str(first.network.subnet).partition("/")
    second.cidr = f"{base.rsplit('.', 2)[0]}.255.254/{length}"
    second.attach()
    with closing(second.listen(_PORT)) as server:
        expect_equal(talk(first.connect(second.address, _PORT), server), first.address, "the address seen")


@case("network.addresses.gateway", needs=[Capability.ADDRESSES])
def the_gateway_is_the_networks(subject: Subject) -> None:
    """The gateway in the attachment, if there is one, is the network's."""
    container = subject.attached()
    if container.attached.gateway is not None:
        expect_equal(container.attached.gateway, container.network.gateway, "gateway of the attachment")


@case("network.crowd.parallel", refused=Capability.HOST_NAMESPACE, deadline_s=60)
def a_crowd_attaches_at_once(subject: Subject) -> None:
    """200 containers attached at once by as many processes are all there, with addresses and ports of their own.

    16 where the driver leases addresses itself. Then all are detached at once, and nothing is left.
    """
    network = subject.network()
    number = _CROWD if subject.claims(Capability.ADDRESSES) else _SMALL_CROWD
    subject.make(network)
    before = traces()
    crowd = [subject.container(network) for _ in range(number)]
    ports = _some_ports(subject)
    found = all_at_once(
        [
            _alone(crowd, container, _attach(container, ports if i % _SAMPLE == 0 else ()))
            for i, container in enumerate(crowd)
        ]
    )
    for container, attachment in zip(crowd, found, strict=True):
        container.attachment = decode(Attachment, attachment)
    _expect_all_there(crowd)
    all_at_once([_alone(crowd, container, container.detach) for container in crowd])
    subject.expect_unchanged(before, f"after {number} containers were detached at once")
    for container in crowd:
        container.attachment = None


def _some_ports(subject: Subject) -> tuple[Port, ...]:
    return (port(0, 80),) if subject.claims(Capability.PORTS) else ()


def _attach(container: Container, ports: tuple[Port, ...]) -> Callable[[], object]:
    return lambda: encode(container.attach(*ports).attached)


def _alone(crowd: list[Container], container: Container, act: Callable[[], object]) -> Callable[[], object]:
    """Return a function that lets go of the namespaces of all others first; in a process of its own."""

    def run() -> object:
        for other in crowd:
            if other is not container:
                other.close()
        return act()

    return run


def _expect_all_there(crowd: list[Container]) -> None:
    addresses = [address for container in crowd for address in container.addresses]
    expect_equal(len(set(addresses)), len(addresses), "distinct addresses")
    published = [each.host_port for container in crowd for each in container.attached.ports]
    expect_equal(len(set(published)), len(published), "distinct published ports")
    for container in crowd:
        with container.inside():
            links = view.links()
        for interface in container.attached.interfaces:
            link = links.get(interface.name)
            expect(link and set(interface.addresses) <= set(link.addresses), f"{interface} is not in its namespace")
    first = crowd[0]
    if first.attached.interfaces:
        with closing(first.listen(_PORT)) as server:
            for container in crowd[1 :: max(1, len(crowd) // _SAMPLE)]:
                talk(container.connect(first.address, _PORT), server)


@case("network.crowd.same-network", refused=Capability.HOST_NAMESPACE)
def many_make_the_same_network_at_once(subject: Subject) -> None:
    """Processes that make one network at the same time succeed with the same record; so do those that remove it."""
    network = subject.network()
    records = all_at_once([lambda: dict(subject.driver.create(network)) for _ in range(_SAMPLE)])
    subject.make(network)
    made = msgspec.json.decode(msgspec.json.encode(subject.records[network.name]))
    expect_equal([record for record in records if record != made], [], "records that differ")
    record = subject.records[network.name]

    def remove() -> None:
        subject.driver.remove(network, record)

    all_at_once([remove for _ in range(_SAMPLE)])
    subject.expect_clean("after the network was removed by several at once")

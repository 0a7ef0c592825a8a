"""Network cases: published ports."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from plugengine.errors import ConflictError, NotSupportedError
from plugengine.model import Capability, Port
from plugengine.testing.cases import case, expect, expect_equal, fail
from plugengine.testing.network.container import Container
from plugengine.testing.network.host_traces import traces
from plugengine.testing.network.net_namespace import Place, question, talk
from plugengine.testing.network.playground import HOST_ADDRESS, WORLD_ADDRESS
from plugengine.testing.network.subject import Subject, port

_HOST = 8080
_OTHER = 8081
_GUEST = 80
_PORTS = [Capability.PORTS]


def _ways(subject: Subject) -> tuple[tuple[str, Place, str], ...]:
    return (
        ("the world", subject.world.place, HOST_ADDRESS),
        ("the host at its address", subject.here, HOST_ADDRESS),
        ("the host at 127.0.0.1", subject.here, "127.0.0.1"),
    )


@case("network.ports.tcp", needs=_PORTS)
def a_tcp_port_is_reached(subject: Subject) -> None:
    """A published TCP port is reached from the world, and from the host at its address and at 127.0.0.1."""
    container = subject.attached(port(_HOST, _GUEST))
    _expect_reached(subject, container, _HOST)


def _expect_reached(subject: Subject, container: Container, number: int) -> None:
    with closing(container.listen(_GUEST)) as server:
        for who, place, address in _ways(subject):
            try:
                talk(place.connect(address, number), server)
            except OSError as exc:
                fail(f"port {number} is not reached from {who}: {exc}")


@case("network.ports.udp", needs=_PORTS)
def a_udp_port_answers(subject: Subject) -> None:
    """A published UDP port answers the world, and the host at its address and at 127.0.0.1."""
    container = subject.attached(port(_HOST, _GUEST, protocol="udp"))
    with closing(container.bind_udp(_GUEST)) as server:
        for who, place, address in _ways(subject):
            with closing(place.bind_udp(0)) as client:
                try:
                    question(client, server, address, _HOST)
                except OSError as exc:
                    fail(f"udp port {_HOST} does not answer {who}: {exc}")


@case("network.ports.from-peers", needs=_PORTS)
def other_containers_reach_it_at_the_host(subject: Subject) -> None:
    """A published port is reached at the host's address from other containers, of the same network and of others."""
    container = subject.attached(port(_HOST, _GUEST))
    with closing(container.listen(_GUEST)) as server:
        for network in (container.network, subject.network("kit-other")):
            talk(subject.attached(network=network).connect(HOST_ADDRESS, _HOST), server)


@case("network.ports.source", needs=_PORTS)
def the_container_sees_who_asks(subject: Subject) -> None:
    """A container sees the true address of a client in the world, not the host's."""
    container = subject.attached(port(_HOST, _GUEST))
    with closing(container.listen(_GUEST)) as server:
        seen = talk(subject.world.place.connect(HOST_ADDRESS, _HOST), server)
    expect_equal(seen, WORLD_ADDRESS, "the address the container saw")


@case("network.ports.one-address", needs=_PORTS)
def a_port_on_one_address_is_on_no_other(subject: Subject) -> None:
    """A port published on one address of the host is not reached at another."""
    container = subject.attached(port(_HOST, _GUEST, on=HOST_ADDRESS), port(_OTHER, _GUEST, on="127.0.0.1"))
    with closing(container.listen(_GUEST)) as server:
        talk(subject.world.place.connect(HOST_ADDRESS, _HOST), server)
        talk(subject.here.connect("127.0.0.1", _OTHER), server)
        expect(not subject.here.reaches("127.0.0.1", _HOST), f"port {_HOST} of {HOST_ADDRESS} is also at 127.0.0.1")
        for place in (subject.world.place, subject.here):
            expect(not place.reaches(HOST_ADDRESS, _OTHER), f"port {_OTHER} of 127.0.0.1 is also at {HOST_ADDRESS}")


@case("network.ports.as-asked", needs=_PORTS)
def the_attachment_names_the_ports(subject: Subject) -> None:
    """The attachment names every port as published, in the order asked for; 0 became numbers that are free."""
    asked = (port(0, 80), port(_HOST, 81), port(0, 82), port(0, 83, protocol="udp"))
    container = subject.attached(*asked)
    published = container.attached.ports
    expect_equal([(each.guest_port, each.protocol) for each in published], [(p.guest_port, p.protocol) for p in asked],
                 "ports of the attachment")  # fmt: skip
    expect_equal(published[1].host_port, _HOST, "the port asked for")
    numbers = [each.host_port for each in published if each.protocol == "tcp"]
    expect(0 not in numbers and len(set(numbers)) == len(numbers), f"host ports {numbers} are not free ones")
    _expect_reached(subject, container, published[0].host_port)


@case("network.ports.conflict", needs=_PORTS)
def a_port_of_another_container_is_refused(subject: Subject) -> None:
    """A port another container has is refused with a ConflictError that names it; nothing is left, all else works."""
    holder = subject.attached(port(_HOST, _GUEST))
    refused = subject.container()
    before = traces()
    _expect_conflict(lambda: refused.attach(port(_OTHER, _GUEST), port(_HOST, _GUEST)), _HOST)
    subject.expect_unchanged(before, "after the refused attach")
    _expect_reached(subject, holder, _HOST)
    refused.attach(port(_OTHER, _GUEST))


@case("network.ports.host-program", needs=_PORTS)
def a_port_of_a_program_is_refused(subject: Subject) -> None:
    """A port a program of the host listens on is refused with a ConflictError that names it."""
    container = subject.container()
    with closing(subject.here.listen(_HOST)):
        _expect_conflict(lambda: container.attach(port(_HOST, _GUEST)), _HOST)
    with closing(subject.here.bind_udp(_HOST)):
        _expect_conflict(lambda: container.attach(port(_HOST, _GUEST, protocol="udp")), _HOST)
    container.attach(port(_HOST, _GUEST))


def _expect_conflict(attach: Callable[[], object], number: int) -> None:
    try:
        attach()
    except ConflictError as exc:
        expect(str(number) in exc.message, f"the message does not name port {number}: {exc.message}")
    else:
        fail(f"port {number} is taken, but was published")


@case("network.ports.replace", needs=_PORTS)
def ports_are_replaced_while_it_runs(subject: Subject) -> None:
    """The ports of a running container are replaced: those dropped are gone, those kept and added are reached."""
    container = subject.attached(port(_HOST, _GUEST))
    before = container.attached
    after = _replace(subject, container, port(_OTHER, _GUEST))
    expect_equal([each.host_port for each in after], [_OTHER], "ports of the new attachment")
    expect_equal(container.attached.interfaces, before.interfaces, "interfaces of the new attachment")
    _expect_reached(subject, container, _OTHER)
    with closing(container.listen(_GUEST)):
        _expect_gone(subject, _HOST)
        expect_equal(_replace(subject, container), (), "ports of the attachment after the last was withdrawn")
        _expect_gone(subject, _OTHER)


def _replace(subject: Subject, container: Container, *wanted: Port) -> tuple[Port, ...]:
    container.attachment = subject.driver.ports(container.request(*wanted), container.attached)
    return container.attached.ports


def _expect_gone(subject: Subject, number: int) -> None:
    """Fail if a port is reached; somebody must listen at it."""
    for who, place, address in _ways(subject):
        expect(not place.reaches(address, number), f"port {number} is still reached from {who}")


@case("network.ports.replace-conflict", needs=_PORTS)
def a_failed_replacement_changes_nothing(subject: Subject) -> None:
    """When one of the new ports is taken the old ones stay, and none of the new is published."""
    subject.attached(port(_HOST, _GUEST))
    container = subject.attached(port(_OTHER, _GUEST))
    before = traces()
    _expect_conflict(lambda: _replace(subject, container, port(8090, _GUEST), port(_HOST, _GUEST)), _HOST)
    subject.expect_unchanged(before, "after the refused replacement")
    _expect_reached(subject, container, _OTHER)


@case("network.ports.gone", needs=_PORTS)
def ports_go_with_the_container(subject: Subject) -> None:
    """After detach a port is not reached any more, and another container can have it."""
    first = subject.attached(port(_HOST, _GUEST))
    with closing(first.listen(_GUEST)):
        first.detach()
        _expect_gone(subject, _HOST)
    second = subject.attached(port(_HOST, _GUEST))
    subject.driver.detach(first.lent_nothing, None)  # late: what is another's by now stays
    _expect_reached(subject, second, _HOST)


@case("network.ports.not-claimed", refused=Capability.PORTS)
def ports_are_refused_by_who_has_none(subject: Subject) -> None:
    """A driver that does not claim PORTS refuses a published port with NotSupportedError, and leaves nothing."""
    container = subject.container()
    subject.make(container.network)
    before = traces()
    try:
        container.attach(port(_HOST, _GUEST))
    except NotSupportedError:
        pass
    else:
        fail(f"port {_HOST} was asked for, and accepted in silence")
    subject.expect_unchanged(before, "after the refused attach")

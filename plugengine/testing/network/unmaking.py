"""Network cases: detach, remove and gc, also of what is half made, gone, or somebody else's."""

from __future__ import annotations

from contextlib import closing

from plugengine.model import Attachment, Capability, Port, decode, encode
from plugengine.testing.cases import case, expect, expect_equal
from plugengine.testing.children import in_child
from plugengine.testing.network.container import Container
from plugengine.testing.network.host_traces import traces
from plugengine.testing.network.net_namespace import talk
from plugengine.testing.network.subject import Subject, port

_PORT = 8080
_ELSEWHERE = "/elsewhere/plugengine"  # root of another engine


@case("network.detach.clean")
def detach_takes_all_of_it_away(subject: Subject) -> None:
    """After detach the host is as it was before attach."""
    container = subject.container()
    subject.make(container.network)
    before = traces()
    container.attach()
    container.detach()
    subject.expect_unchanged(before, "after detach")


@case("network.detach.twice")
def detaching_twice_is_detaching_once(subject: Subject) -> None:
    """Detaching what is detached already succeeds, with its attachment and without."""
    container = subject.attached()
    attachment = container.attached
    container.detach()
    before = traces()
    subject.driver.detach(container.lent_nothing, attachment)
    subject.driver.detach(container.lent_nothing, None)
    subject.expect_unchanged(before, "after detaching again")


@case("network.detach.without-attachment")
def detach_finds_it_by_the_id(subject: Subject) -> None:
    """Without an attachment, as after an attach that was interrupted, detach finds all of it by the container's id."""
    container = subject.container()
    subject.make(container.network)
    before = traces()
    container.attach(*_one_port(subject))
    subject.driver.detach(container.lent_nothing, None)
    subject.expect_unchanged(before, "after detach without the attachment")


@case("network.detach.never-attached")
def detaching_what_never_was_is_nothing(subject: Subject) -> None:
    """Detaching a container nobody attached succeeds, also when its network was never made."""
    container = subject.container()
    subject.driver.detach(container.lent_nothing, None)
    subject.make(container.network)
    before = traces()
    subject.driver.detach(container.lent_nothing, None)
    subject.expect_unchanged(before, "after detaching a stranger")


@case("network.detach.dead-namespace", refused=Capability.HOST_NAMESPACE)
def a_namespace_that_is_gone_is_detached(subject: Subject) -> None:
    """A container whose namespace has ended is detached like any other."""
    container = subject.container()
    subject.make(container.network)
    before = traces()
    container.attach(*_one_port(subject))
    container.close()
    container.detach()
    subject.expect_settled(before, "after the namespace ended and the container was detached")


@case("network.detach.others-stay", refused=Capability.HOST_NAMESPACE)
def detaching_one_leaves_the_others(subject: Subject) -> None:
    """Detaching one container, also twice, does not touch another of the same network."""
    one, two = subject.attached(), subject.attached()
    one.detach()
    subject.driver.detach(one.lent_nothing, None)
    two.expect_working(f"once container {one.id} is detached")


@case("network.remove.twice")
def removing_twice_is_removing_once(subject: Subject) -> None:
    """Removing a network that is removed already, or that was never made, succeeds."""
    network = subject.network()
    subject.driver.remove(network, {})
    record = subject.make(network)
    for _ in range(2):
        subject.driver.remove(network, record)
        subject.expect_clean("after remove")


@case("network.remove.make-again")
def a_removed_network_can_be_made_again(subject: Subject) -> None:
    """A network that was removed is made again by the next create, and works."""
    network = subject.network()
    subject.attached(network=network).detach()
    subject.driver.remove(network, subject.records[network.name])
    subject.attached(network=network)


@case("network.gc.unknown", refused=Capability.HOST_NAMESPACE)
def gc_removes_what_no_container_owns(subject: Subject) -> None:
    """What was attached for a container nobody knows any more is removed, and named in a line."""
    network = subject.network()
    kept = subject.container(network)
    subject.make(network)
    before = traces()
    lost = subject.container(network)
    _attach_and_end(lost, *_one_port(subject))
    made = traces() != before
    lines = _gc(subject, kept)
    subject.expect_unchanged(before, "after gc")
    expect(lines or not made, "gc removed what was a container's, but returned no line about it")


@case("network.gc.keeps", refused=Capability.HOST_NAMESPACE)
def gc_keeps_what_is_in_use(subject: Subject) -> None:
    """What belongs to a container that is valid stays, and works, while what belongs to nobody goes."""
    kept, lost = subject.attached(*_one_port(subject)), subject.attached()
    lines = _gc(subject, kept)
    expect(not any(kept.id in line for line in lines), f"gc says it removed what is in use: {lines}")
    kept.expect_working("after gc, though it is valid")
    if subject.claims(Capability.PORTS):
        with closing(kept.listen(80)) as server:
            talk(subject.here.connect("127.0.0.1", _PORT), server)
    lost.close()


@case("network.gc.others", refused=Capability.HOST_NAMESPACE)
def gc_leaves_what_other_engines_have(subject: Subject) -> None:
    """What was made for a network of another engine on this host stays, in use or not, and works; see Network.owner."""
    theirs, unused = (subject.network(name, owner=_ELSEWHERE) for name in ("kit-theirs", "kit-unused"))
    running, lost = subject.container(theirs), subject.container()
    for network in (theirs, unused, lost.network):
        subject.make(network)
    _attach_and_end(running, *_one_port(subject))
    before = traces()
    _attach_and_end(lost)
    subject.driver.gc(subject.host, (lost.network,), frozenset())
    subject.expect_unchanged(before, "after gc of another engine")
    running.expect_working("after gc of another engine")


@case("network.gc.quiet")
def gc_of_nothing_says_nothing(subject: Subject) -> None:
    """When all is in use, or nothing is there, gc changes nothing and returns no line."""
    expect_equal(subject.driver.gc(subject.host, (), frozenset()), (), "lines of gc on a host without networks")
    container = subject.attached()
    before = traces()
    expect_equal(_gc(subject, container), (), "lines of gc when all is in use")
    subject.expect_unchanged(before, "after gc")


@case("network.gc.networks")
def gc_removes_the_host_side_of_unknown_networks(subject: Subject) -> None:
    """The host's side of a network that is not among the valid ones, and that nobody uses, is removed."""
    lost = subject.network("kit-lost")
    subject.attached(network=lost).detach()
    kept = subject.network("kit-kept")
    subject.make(kept)
    subject.driver.remove(lost, subject.records[lost.name])
    before = traces()
    subject.make(lost)
    subject.driver.gc(subject.host, (kept,), frozenset())
    subject.expect_unchanged(before, "after gc")


def _attach_and_end(container: Container, *ports: Port) -> None:
    """Attach in a process that ends then, as the monitor of a container whose end nobody noticed."""
    container.attachment = decode(Attachment, in_child(lambda: encode(container.attach(*ports).attached)))


def _one_port(subject: Subject) -> tuple[Port, ...]:
    return (port(_PORT, 80),) if subject.claims(Capability.PORTS) else ()


def _gc(subject: Subject, *valid: Container) -> tuple[str, ...]:
    networks = tuple(subject.networks.values())
    return subject.driver.gc(subject.host, networks, frozenset(container.id for container in valid))

"""Network cases: a network does not change what a host forwards between its own links."""

from __future__ import annotations

from contextlib import closing

from plugengine.model import Capability
from plugengine.testing.cases import case, expect, expect_equal
from plugengine.testing.network import view
from plugengine.testing.network.container import Container
from plugengine.testing.network.net_namespace import IMPATIENCE_S, PATIENCE_S, router
from plugengine.testing.network.playground import BRANCH_ADDRESS, FAR_ADDRESS, Branch
from plugengine.testing.network.subject import Subject, port

_PORT = 8000
# Where plugins or other programs make the network, what they do to the host is theirs to answer for.
_MAKES_IT = [Capability.ADDRESSES]


@case("network.forwarding.others", needs=_MAKES_IT, claim="contract")
def the_host_does_not_become_a_router(subject: Subject) -> None:
    """What a host did not forward between two of its links it does not forward with a network either, nor after it."""
    _expect_between_links(subject, forwarded=False)


@case("network.forwarding.router", needs=_MAKES_IT, claim="contract")
def a_router_stays_one(subject: Subject) -> None:
    """A host that forwards between all its links does so with a network too, and after it."""
    with router():
        _expect_between_links(subject, forwarded=True)


@case("network.forwarding.restored", needs=_MAKES_IT, claim="contract")
def forwarding_goes_with_the_last_network(subject: Subject) -> None:
    """Which interfaces forward, and those to come, is after the last network's end as it was before the first."""
    before = view.forwarding()
    for container in [_attached(subject, name) for name in ("kit-one", "kit-two")]:
        _remove(subject, container)
    expect_equal(view.forwarding(), before, "interfaces that forward")


def _expect_between_links(subject: Subject, *, forwarded: bool) -> None:
    with closing(Branch(subject.world)) as branch:
        _expect(subject, branch, "before there was a network", forwarded=forwarded)
        container = _attached(subject)
        _expect(subject, branch, "with a container attached", forwarded=forwarded)
        _remove(subject, container)
        _expect(subject, branch, "after the network was removed", forwarded=forwarded)


def _expect(subject: Subject, branch: Branch, when: str, *, forwarded: bool) -> None:
    world = subject.world.place
    for source, target, address in ((branch.place, world, FAR_ADDRESS), (world, branch.place, BRANCH_ADDRESS)):
        with closing(target.listen(_PORT)):
            reached = source.reaches(address, _PORT, within_s=PATIENCE_S if forwarded else IMPATIENCE_S)
        what = "no longer forwards" if forwarded else "forwards"
        expect(reached == forwarded, f"the host {what} from one of its links to {address} on another {when}")


def _attached(subject: Subject, name: str = "kit") -> Container:
    ports = (port(0, 80),) if subject.claims(Capability.PORTS) else ()
    return subject.attached(*ports, network=subject.network(name))


def _remove(subject: Subject, container: Container) -> None:
    container.detach()
    subject.driver.remove(container.network, subject.records[container.network.name])

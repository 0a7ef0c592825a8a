"""Network cases: the engine is killed in the middle of a verb, and another process tidies up."""

from __future__ import annotations

import time
from collections.abc import Callable

from plugengine.model import Attachment, Capability, Port
from plugengine.testing.cases import case
from plugengine.testing.children import count_steps, in_child, kill_at_step, spread
from plugengine.testing.network.container import Container
from plugengine.testing.network.host_traces import traces
from plugengine.testing.network.subject import Subject, port

# At so many steps, evenly spread over all, the process is killed: as many as fit into a few seconds.
_MOST = 32
_LEAST = 6
_WHILE_S = 3.0


def _ports(subject: Subject) -> tuple[Port, ...]:
    return (port(8080, 80),) if subject.claims(Capability.PORTS) else ()


def _chosen(total: int, cycle_s: float) -> list[int]:
    return spread(total, max(_LEAST, min(_MOST, int(_WHILE_S / cycle_s))))


def _attach(subject: Subject, container: Container, ports: tuple[Port, ...]) -> Callable[[], object]:
    return lambda: subject.driver.attach(container.request(*ports))


@case("network.crash.attach", deadline_s=60)
def an_attach_killed_anywhere_is_undone_by_detach(subject: Subject) -> None:
    """Killed at any step of attach, it is undone by a detach without attachment: nothing is left."""
    network = subject.network()
    ports = _ports(subject)
    subject.make(network)
    before = traces()
    trial = subject.container(network)
    start = time.monotonic()
    total = count_steps(_attach(subject, trial, ports))
    _tidy(subject, trial)
    chosen = _chosen(total, time.monotonic() - start)
    subject.expect_unchanged(before, "after attach in one process and detach in another")
    for step in chosen:
        container = subject.container(network)
        kill_at_step(_attach(subject, container, ports), step)
        _tidy(subject, container)
        subject.expect_unchanged(before, f"after attach was killed at step {step} of {total} and detached")


@case("network.crash.detach", deadline_s=60)
def a_detach_killed_anywhere_is_ended_by_the_next(subject: Subject) -> None:
    """Killed at any step of detach, the next detach with the same attachment ends it."""
    network = subject.network()
    ports = _ports(subject)
    subject.make(network)
    before = traces()

    def detach(container: Container) -> Callable[[], None]:
        return lambda: subject.driver.detach(container.lent_nothing, container.attachment)

    start = time.monotonic()
    total = count_steps(detach(subject.container(network).attach(*ports)))
    for step in _chosen(total, 2 * (time.monotonic() - start)):
        container = subject.container(network).attach(*ports)
        kill_at_step(detach(container), step)
        _tidy(subject, container, container.attachment)
        subject.expect_unchanged(before, f"after detach was killed at step {step} of {total} and repeated")


@case("network.crash.gc", refused=Capability.HOST_NAMESPACE, deadline_s=60)
def an_attach_killed_anywhere_is_collected(subject: Subject) -> None:
    """Killed at any step of attach, what it left is removed by gc once the container is forgotten."""
    network = subject.network()
    ports = _ports(subject)
    subject.make(network)
    before = traces()
    start = time.monotonic()
    total = count_steps(lambda: subject.attached(*ports, network=network).detach())
    for step in _chosen(total, 2 * (time.monotonic() - start)):
        container = subject.container(network)
        kill_at_step(_attach(subject, container, ports), step)
        in_child(lambda: list(subject.driver.gc(subject.host, (network,), frozenset())))
        subject.expect_unchanged(before, f"after attach was killed at step {step} of {total}, and gc")
        subject.forget(container)


@case("network.crash.create", deadline_s=60)
def a_create_killed_anywhere_is_mended_or_removed(subject: Subject) -> None:
    """Killed at any step of create, the next create repairs it, and remove takes all away, with a record or without."""
    network = subject.network()
    subject.make(network)
    made = traces()
    subject.driver.remove(network, subject.records[network.name])
    total = count_steps(lambda: subject.driver.remove(network, subject.driver.create(network)))
    for step in spread(total, _MOST // 2):
        kill_at_step(lambda: subject.driver.create(network), step)
        if step % 2:
            subject.make(network)
            subject.expect_unchanged(made, f"after create was killed at step {step} of {total} and repeated")
        subject.driver.remove(network, subject.records[network.name] if step % 2 else None)
        subject.expect_clean(f"after create was killed at step {step} of {total} and remove")


def _tidy(subject: Subject, container: Container, attachment: Attachment | None = None) -> None:
    """Detach in a process of its own, as the next start of the engine does, while the namespace still lives."""
    in_child(lambda: subject.driver.detach(container.lent_nothing, attachment))
    container.attachment = None
    subject.forget(container)

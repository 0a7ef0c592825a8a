"""Network cases: what every driver promises about making."""

from __future__ import annotations

import os
import socket
import struct

import msgspec

from plugengine.errors import PlugengineError
from plugengine.kernel import rtnetlink
from plugengine.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket, Request
from plugengine.model import Attachment, Capability, decode, encode
from plugengine.testing.cases import case, expect_equal, fail
from plugengine.testing.children import OtherProcess
from plugengine.testing.network import view
from plugengine.testing.network.host_traces import traces
from plugengine.testing.network.subject import Subject

# include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h
_NFNL_MSG_BATCH_BEGIN = 0x10
_NFNL_MSG_BATCH_END = 0x11
_NFNL_SUBSYS_NFTABLES = 10
_NFT_MSG_DELTABLE = 2


@case("network.probe.pure")
def probing_is_pure(subject: Subject) -> None:
    """Asking whether the driver can run here changes nothing, and the answer stays the same."""
    for _ in range(2):
        expect_equal(subject.driver.probe(subject.host), (), "reasons why this host cannot run the driver")
    subject.expect_clean("after probing")


@case("network.create.twice")
def creating_twice_is_creating_once(subject: Subject) -> None:
    """A network made twice is made once: the same record, the same host."""
    network = subject.network()
    first = subject.make(network)
    before = traces()
    expect_equal(subject.make(network), first, "the record of the second create")
    subject.expect_unchanged(before, "after the second create")


@case("network.create.in-use")
def creating_again_disturbs_nobody(subject: Subject) -> None:
    """Making a network again, as before every attach, does not disturb a container that is attached."""
    one = subject.attached()
    before = traces()
    subject.make(one.network)
    subject.expect_unchanged(before, "after create with a container attached")


@case("network.create.repairs")
def create_mends_what_is_missing(subject: Subject) -> None:
    """After somebody deleted the driver's links and flushed the packet filter, create brings all of it back."""
    before = set(view.links())
    network = subject.network()
    subject.make(network)
    made = traces()
    with NetlinkSocket(NETLINK_ROUTE) as route:
        for name in set(view.links()) - before:
            rtnetlink.delete(route, name)
    flush_packet_filter()
    subject.make(network)
    subject.expect_unchanged(made, "after create repaired it")


def flush_packet_filter() -> None:
    """Delete every nf_tables table of this namespace, as `nft flush ruleset` does."""
    header = struct.pack("!BBH", socket.AF_UNSPEC, 0, _NFNL_SUBSYS_NFTABLES)
    everything = struct.pack("!BBH", socket.AF_UNSPEC, 0, 0)
    kind = _NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_DELTABLE
    try:
        with NetlinkSocket(NETLINK_NETFILTER) as nf:
            nf.execute(
                Request(_NFNL_MSG_BATCH_BEGIN, 0, header, "packet filter", ack=False),
                Request(kind, 0, everything, "packet filter"),
                Request(_NFNL_MSG_BATCH_END, 0, header, "packet filter", ack=False),
            )
    except OSError:
        return  # a kernel without nf_tables: nothing to flush


@case("network.attach.failure-leaves-nothing", refused=Capability.HOST_NAMESPACE)
def a_failed_attach_leaves_nothing(subject: Subject) -> None:
    """An attach that fails raises an error of the engine, and leaves nothing of the container behind."""
    container = subject.container()
    subject.make(container.network)
    before = traces()
    fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            subject.driver.attach(container.request(netns=fd))
        except PlugengineError:
            pass
        else:
            fail("attach to what is not a network namespace succeeded")
    finally:
        os.close(fd)
    subject.expect_unchanged(before, "after the failed attach")
    container.attach()


@case("network.attach.wrong-address", needs=[Capability.ADDRESSES])
def an_address_that_is_none_is_refused(subject: Subject) -> None:
    """What is not an address is refused with an error of the engine, and leaves nothing behind."""
    container = subject.container()
    subject.make(container.network)
    before = traces()
    try:
        subject.driver.attach(container.request(address="10.88.0.300/16"))
    except PlugengineError:
        pass
    else:
        fail("the address 10.88.0.300/16 was accepted")
    subject.expect_unchanged(before, "after the refused attach")


@case("network.attach.again")
def a_container_can_be_attached_again(subject: Subject) -> None:
    """The same container, stopped and started again, is attached again in its new namespace."""
    first = subject.attached()
    names = [interface.name for interface in first.attached.interfaces]
    first.detach()
    second = subject.container(container_id=first.id)
    subject.containers.remove(first)
    second.attach()
    expect_equal([interface.name for interface in second.attached.interfaces], names, "interfaces at the second start")
    first.close()


@case("network.record.enough")
def records_are_enough_for_a_stranger(subject: Subject) -> None:
    """A process that only has the records, as JSON, detaches the container and removes the network."""
    network = subject.network()
    container = subject.container(network)

    def unmake(told: dict[str, object]) -> None:
        attachment = decode(Attachment, told["attachment"])
        subject.driver.detach(container.lent_nothing, attachment)
        subject.driver.remove(network, told["record"])  # type: ignore[arg-type]

    with OtherProcess(unmake) as stranger:
        container.attach()
        told = _through_json(
            {"attachment": encode(container.attached), "record": encode(subject.records[network.name])}
        )
        read = decode(Attachment, told["attachment"])
        expect_equal(_through_json({"": encode(read)})[""], told["attachment"], "the attachment from JSON")
        stranger.call(told)
    subject.expect_clean("after another process removed all")


def _through_json(value: dict[str, object]) -> dict[str, object]:
    read: dict[str, object] = msgspec.json.decode(msgspec.json.encode(value))
    return read


@case("network.ids.alike", refused=Capability.HOST_NAMESPACE)
def ids_that_are_alike_are_kept_apart(subject: Subject) -> None:
    """Containers whose ids differ in one character, first or last, do not get into each other's way."""
    network = subject.network("kit-with_a.rather-long-name")
    kept = [subject.container(network, name).attach() for name in ("a" * 64, "a" * 63 + "b", "b" + "a" * 63)]
    kept.pop(0).detach()
    for container in kept:
        container.expect_working(f"once {'a' * 64} is detached")


@case("network.names.alike", refused=Capability.HOST_NAMESPACE)
def networks_with_like_names_are_kept_apart(subject: Subject) -> None:
    """Removing a network does not touch one whose name differs in the last of many characters."""
    first, second = (subject.network(f"kit-with_a.rather-long-name-{number}") for number in (1, 2))
    subject.make(first)
    container = subject.attached(network=second)
    subject.driver.remove(first, subject.records[first.name])
    container.expect_working("once the network of the like name is removed")

"""The driver speaks CNI: what plugins are asked, in which order, with what, and what becomes of their answers."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import msgspec
import plugengine_net_cni as cni
import pytest
from plugengine_net_cni import ledger

from plugengine.errors import ConflictError, DriverError, NotSupportedError, UsageError
from plugengine.hookspecs import NetworkSpec
from plugengine.model import Interface, Network, NetworkStats, Port
from tests.drivers.net_bridge.world import HOST
from tests.drivers.net_cni.world import World
from tests.drivers.options import values
from tests.waiting import PATIENCE_S, eventually

ONE, TWO = {"type": "one"}, {"type": "two"}
PORT = {"type": "publish", "capabilities": {"portMappings": True}}
WEB = Port(host_ip="", host_port=8080, guest_port=80)


def test_every_hook_of_the_contract_is_there() -> None:
    hooks = {name for name in vars(NetworkSpec) if name.startswith("pe_")}
    assert hooks <= set(vars(cni))


def test_plugins_are_chained_forth_and_back_with_the_result_of_the_one_before(world: World) -> None:
    guest = world.guest(world.network(world.conflist({**ONE, "own": 1}, TWO)))
    guest.attach()
    first, second = world.calls("ADD")
    assert first["config"]["own"] == 1
    assert (first["config"]["name"], first["config"]["cniVersion"]) == ("net", "1.0.0")
    assert "prevResult" not in first["config"]
    assert second["config"]["prevResult"]["routes"][-1] == {"dst": "192.0.2.1/32"}
    guest.detach()
    assert world.order() == ["ADD one", "ADD two", "DEL two", "DEL one"]
    assert world.ledger() == []


def test_del_gets_the_last_result_and_the_same_words(world: World) -> None:
    guest = world.guest(world.network(world.conflist(ONE, TWO), args="K=V;IgnoreUnknown=1"))
    guest.attach()
    guest.detach()
    adds, dels = world.calls("ADD"), world.calls("DEL")
    for call in (*adds, *dels):
        assert call["CNI_CONTAINERID"] == guest.id
        assert call["CNI_IFNAME"] == "eth0"
        assert call["CNI_ARGS"] == "K=V;IgnoreUnknown=1"
        assert call["CNI_PATH"] == str(world.bin)
        assert call["inode"] == os.fstat(guest.fd).st_ino, "CNI_NETNS leads to the container's namespace"
    assert [call["config"]["prevResult"]["routes"][-1] for call in dels] == [{"dst": "192.0.2.2/32"}] * 2


def test_the_result_is_the_attachment(world: World) -> None:
    guest = world.guest(world.network(world.conflist(ONE)))
    attachment = guest.attach()
    assert attachment.interfaces == (
        Interface(name="eth0", mac="02:00:00:00:00:02", addresses=("10.1.2.3/24",), mtu=1400),
    )
    assert (attachment.gateway, attachment.dns) == ("10.1.2.1", ("10.1.2.53",))
    assert cni.pe_network_stats(guest.request(), attachment) == NetworkStats()


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_each_version_gets_what_it_knows(world: World, version: str) -> None:
    guest = world.guest(world.network(world.conflist(ONE, version=version)))
    guest.attach()
    attachment = guest.attach()  # once more: it is checked, where that can be
    guest.detach()
    order = world.calls()
    words = [call["command"] for call in order]
    status = ["STATUS"] if version == "1.1.0" else []
    again = ["DEL", "ADD"] if version == "0.3.1" else ["CHECK"]
    assert words == [*status, "ADD", *status, *again, "DEL"]
    assert ("prevResult" in order[-1]["config"]) == (version != "0.3.1")
    assert attachment == guest.attachment


def test_the_newest_version_all_plugins_speak_is_used(world: World) -> None:
    conf = world.conflist(ONE, {"type": "old"}, version="1.1.0", cniVersions=["0.3.1", "1.0.0", "1.1.0"])
    guest = world.guest(world.network(conf))
    guest.attach()
    assert {call["config"]["cniVersion"] for call in world.calls("ADD")} == {"0.3.1"}


def test_a_version_a_plugin_does_not_speak_is_said_before_anything_is_added(world: World) -> None:
    guest = world.guest(world.network(world.conflist(ONE, {"type": "old"})))
    with pytest.raises(DriverError, match=r"written for 1\.0\.0; .*old speaks 0\.2\.0, 0\.3\.1"):
        guest.attach()
    assert world.order() == []


def test_a_plugin_that_says_no_versions_is_named(world: World) -> None:
    with pytest.raises(DriverError, match="cni plugin none: VERSION: answered no supportedVersions"):
        world.guest(world.network(world.conflist({"type": "none"}))).attach()


def test_a_plugin_that_is_not_installed_is_named_with_the_near_miss(world: World) -> None:
    conf = world.conflist({"type": "bridge"})
    (world.bin / "bridge").rename(world.bin / "brigde")
    with pytest.raises(DriverError, match="cni plugin bridge: not found in") as caught:
        world.guest(world.network(conf)).attach()
    assert caught.value.hint == "did you mean brigde?"


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        ("error", r"cni plugin two: ADD for container 0{12}: no luck: at all \(code 107\)"),
        ("garbage", "answered no JSON object: <html>"),
        ("silent", "exit code 3 without an error object: nothing"),
        ("kill", "was killed by SIGKILL"),
        ("future", "result of version 9.0.0"),
        ("bad interface", "interface 7 is not in the list"),
    ],
)
def test_a_plugin_that_fails_is_shown_and_everything_is_taken_back(world: World, behave: str, words: str) -> None:
    guest = world.guest(world.network(world.conflist(ONE, {**TWO, "behave": {"ADD": behave}})))
    with pytest.raises(DriverError, match=words) as caught:
        guest.attach()
    if behave in ("error", "silent"):
        assert "two was asked to ADD" in str(caught.value.hint)
    assert world.order() == ["ADD one", "ADD two", "DEL two", "DEL one"]
    assert world.ledger() == []


def test_a_plugin_that_hangs_is_killed_with_its_children(world: World) -> None:
    guest = world.guest(world.network(world.conflist({**ONE, "behave": {"ADD": "hang"}}), timeout="1"))
    with pytest.raises(DriverError, match="did not end within 1 s; killed") as caught:
        guest.attach()
    assert "one was asked to ADD" in str(caught.value.hint)
    child = Path("/proc", (world.bin / "child").read_text(), "stat")
    eventually(lambda: not child.exists() or child.read_text().rsplit(")", 1)[1].split()[0] == "Z")
    assert world.order() == ["ADD one", "DEL one"]


def test_a_plugin_that_talks_much_does_not_block(world: World) -> None:
    guest = world.guest(world.network(world.conflist({**ONE, "behave": {"ADD": "flood"}}), timeout=f"{PATIENCE_S:g}"))
    assert guest.attach().interfaces


def test_del_tries_all_plugins_reports_at_the_end_and_works_the_next_time(world: World) -> None:
    guest = world.guest(world.network(world.conflist(ONE, {**TWO, "behave": {"DEL": "error"}})))
    guest.attach()
    with pytest.raises(DriverError, match=r"disconnect container .*no luck"):
        guest.detach()
    assert world.order("DEL") == ["DEL two", "DEL one"]
    assert len(world.ledger()) == 1, "for the next time"
    (kept,) = ledger.load_all()
    assert kept.connection.result


def test_del_works_from_the_record_alone_as_after_a_reboot_and_on_what_is_gone(world: World) -> None:
    conf = world.conflist(ONE, TWO)
    guest = world.guest(world.network(conf))
    guest.attach()
    guest.close()
    conf.unlink()
    ledger.forget(guest.id, "lan")
    world.order()
    guest.detach()
    guest.detach()
    calls = world.calls("DEL")
    assert [call["CNI_NETNS"] for call in calls] == [""] * 4
    assert calls[0]["config"]["prevResult"]["ips"][0]["address"] == "10.1.2.3/24"


def test_an_interrupted_add_is_taken_back_without_a_record(world: World) -> None:
    guest = world.guest(world.network(world.conflist(ONE, TWO)))
    guest.attach()
    guest.attachment = None
    guest.detach()
    assert world.order("DEL") == ["DEL two", "DEL one"]
    guest.detach()
    assert world.order("DEL") == []


def test_a_plugin_that_masquerades_finds_the_addresses_in_a_namespace_that_looks_like_the_one_that_is_gone(
    world: World,
) -> None:
    guest = world.guest(world.network(world.conflist({**ONE, "ipMasq": True}, TWO)))
    guest.attach()
    guest.close()
    guest.detach()
    two, one = world.calls("DEL")
    assert two["CNI_NETNS"] == ""
    assert one["inode"], "it exists"
    assert one["config"]["prevResult"]["interfaces"][1]["sandbox"] == one["CNI_NETNS"]


def test_a_second_connection_is_eth1(world: World) -> None:
    guest = world.guest(world.network(world.conflist(ONE)))
    with guest.inside():
        subprocess.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "x"], check=True)
    assert guest.attach().interfaces[0].name == "eth1"


# --- capabilities ------------------------------------------------------------------------------------------


def test_ports_go_to_the_plugin_that_publishes_them_and_to_no_other(world: World) -> None:
    guest = world.guest(world.network(world.conflist(ONE, PORT)))
    local = Port(host_ip="127.0.0.1", host_port=8081, guest_port=53, protocol="udp")
    attachment = guest.attach(ports=(WEB, local))
    one, publish = world.calls("ADD")
    assert "runtimeConfig" not in one["config"]
    assert "capabilities" not in publish["config"]
    assert publish["config"]["runtimeConfig"]["portMappings"] == [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8081, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
    ]
    assert [port.host_port for port in attachment.ports] == [8080, 8081]
    guest.detach()
    assert world.calls("DEL")[0]["config"]["runtimeConfig"] == publish["config"]["runtimeConfig"]


def test_ports_without_a_plugin_for_them_are_refused_with_a_sentence(world: World) -> None:
    guest = world.guest(world.network(world.conflist(ONE)))
    with pytest.raises(NotSupportedError, match="none of its plugins publishes ports") as caught:
        guest.attach(ports=(WEB,))
    assert "portmap" in str(caught.value.hint)


def test_a_port_is_given_once_and_a_free_one_is_found(world: World) -> None:
    network = world.network(world.conflist(ONE, PORT))
    world.guest(network).attach(ports=(WEB,))
    with pytest.raises(ConflictError, match=r"port 0\.0\.0\.0:8080/tcp: it is published by another"):
        world.guest(network).attach(ports=(WEB,))
    import socket

    with socket.create_server(("0.0.0.0", 8090)), pytest.raises(ConflictError, match="a program on this host"):
        world.guest(network).attach(ports=(Port(host_ip="", host_port=8090, guest_port=80),))
    found = world.guest(network).attach(ports=(Port(host_ip="", host_port=0, guest_port=80),)).ports
    assert found[0].host_port not in (0, 8080)
    assert len(world.ledger()) == 2


def test_ports_are_changed_by_the_plugins_that_publish_them_alone(world: World) -> None:
    guest = world.guest(world.network(world.conflist(ONE, PORT)))
    attachment = guest.attach(ports=(WEB,))
    world.order()
    other = Port(host_ip="", host_port=8081, guest_port=80)
    changed = cni.pe_network_ports(guest.request(ports=(other,)), attachment)
    assert [port.host_port for port in changed.ports] == [8081]
    assert world.order() == ["DEL publish", "ADD publish"]
    assert cni.pe_network_ports(guest.request(ports=changed.ports), changed) == changed
    assert world.order() == ["CHECK one", "CHECK publish"], "they are there"


def test_ports_of_a_plugin_that_made_the_interface_cannot_be_changed(world: World) -> None:
    guest = world.guest(world.network(world.conflist(PORT)))
    attachment = guest.attach(ports=(WEB,))
    with pytest.raises(NotSupportedError, match="made its interface too"):
        cni.pe_network_ports(guest.request(ports=()), attachment)
    assert cni.pe_network_ports(guest.request(ports=attachment.ports), attachment) == attachment


def test_ports_that_check_does_not_find_are_published_again(world: World) -> None:
    conf = world.conflist(ONE, {**PORT, "behave": {"CHECK": "error"}})
    guest = world.guest(world.network(conf))
    attachment = guest.attach(ports=(WEB,))
    world.order()
    assert cni.pe_network_ports(guest.request(ports=attachment.ports), attachment) == attachment
    assert world.order() == ["CHECK one", "CHECK publish", "DEL publish", "ADD publish"]


def test_what_another_plugin_misses_is_added_again_too(world: World) -> None:
    conf = world.conflist(ONE, {**TWO, "behave": {"CHECK": "error"}}, PORT)
    guest = world.guest(world.network(conf))
    attachment = guest.attach(ports=(WEB,))
    world.order()
    assert cni.pe_network_ports(guest.request(ports=attachment.ports), attachment) == attachment
    assert world.order("ADD", "DEL") == ["DEL publish", "DEL two", "ADD two", "ADD publish"]


def test_what_else_check_does_not_find_is_said(world: World) -> None:
    guest = world.guest(world.network(world.conflist({**ONE, "behave": {"CHECK": "error"}}, PORT)))
    attachment = guest.attach(ports=(WEB,))
    with pytest.raises(DriverError, match=r"cni plugin one: CHECK .*no luck"):
        cni.pe_network_ports(guest.request(ports=attachment.ports), attachment)


def test_check_is_left_out_where_the_configuration_says_so(world: World) -> None:
    guest = world.guest(world.network(world.conflist(ONE, disableCheck=True)))
    guest.attach()
    guest.attach()
    assert world.order() == ["ADD one", "DEL one", "ADD one"]


def test_an_address_and_a_mac_are_handed_on_or_refused(world: World) -> None:
    able = {**ONE, "capabilities": {"ips": True, "mac": True}}
    guest = world.guest(world.network(world.conflist(able), ip="10.1.2.9/24"))
    guest.attach(options={**guest.network.options, "mac": "02:00:00:00:00:09"})
    assert world.calls("ADD")[0]["config"]["runtimeConfig"] == {"ips": ["10.1.2.9/24"], "mac": "02:00:00:00:00:09"}
    other = world.guest(world.network(world.conflist(ONE, name="other"), ip="10.1.2.9/24"))
    with pytest.raises(UsageError, match="none of its plugins has the capability ips"):
        other.attach()


def test_a_hardware_address_of_the_engines_is_handed_on_or_refused(world: World) -> None:
    guest = world.guest(world.network(world.conflist({**ONE, "capabilities": {"mac": True}})))
    guest.attach(mac="02:00:00:00:00:09")
    assert world.calls("ADD")[0]["config"]["runtimeConfig"] == {"mac": "02:00:00:00:00:09"}
    other = world.guest(world.network(world.conflist(ONE, name="other")))
    with pytest.raises(UsageError, match="none of its plugins has the capability mac"):
        other.attach(mac="02:00:00:00:00:09")


def test_ports_that_cannot_be_replaced_stay(world: World) -> None:
    network = world.network(world.conflist(ONE, PORT))
    world.guest(network).attach(ports=(WEB,))
    guest = world.guest(network)
    attachment = guest.attach(ports=(Port(host_ip="", host_port=8081, guest_port=80),))
    world.order()
    with pytest.raises(ConflictError, match="8080"):
        cni.pe_network_ports(guest.request(ports=(WEB,)), attachment)
    assert world.order() == []
    network = world.network(world.conflist(ONE, {**PORT, "behave": {"ADD": "fail once"}}, name="second"))
    third = world.guest(network)
    attachment = third.attach(ports=(Port(host_ip="", host_port=8082, guest_port=80),))
    (world.bin / "fail").touch()
    with pytest.raises(DriverError, match="no luck"):
        cni.pe_network_ports(third.request(ports=(Port(host_ip="", host_port=8083, guest_port=80),)), attachment)
    *_, last = world.calls("ADD")
    assert last["config"]["runtimeConfig"]["portMappings"][0]["hostPort"] == 8082, "the old one is back"
    (kept,) = [kept for kept in ledger.load_all() if kept.connection.container_id == third.id]
    assert [port.host_port for port in kept.ports] == [8082]


# --- STATUS and GC -----------------------------------------------------------------------------------------


def test_a_plugin_that_is_not_ready_is_shown_before_anything_is_added(world: World) -> None:
    conf = world.conflist(ONE, {**TWO, "behave": {"STATUS": "error"}}, version="1.1.0")
    with pytest.raises(DriverError, match="cni plugin two: STATUS: no luck"):
        world.guest(world.network(conf)).attach()
    assert world.order() == ["STATUS one", "STATUS two"]


def test_collection_takes_back_what_is_abandoned_and_tells_the_plugins_what_is_not(world: World) -> None:
    network = world.network(world.conflist(ONE, TWO, version="1.1.0"))
    theirs = msgspec.structs.replace(network, owner="/elsewhere")
    valid, foreign, left = (world.guest(each) for each in (network, theirs, network))
    for guest in (valid, foreign, left):
        guest.attach()
    for kept in ledger.load_all():
        ledger.save(msgspec.structs.replace(kept, owner=(1, 1)))  # nobody answers for it any more
    world.order()
    removed = list(cni.pe_network_gc(HOST, (network,), frozenset({valid.id})))
    assert removed == [f"cni attachment of container {left.id} to net"]
    *_, gc = calls = world.calls()
    assert [f"{call['command']} {call['plugin']}" for call in calls] == ["DEL two", "DEL one", "GC one", "GC two"]
    assert gc["config"]["cni.dev/valid-attachments"] == [
        {"containerID": valid.id, "ifname": "eth0"},
        {"containerID": foreign.id, "ifname": "eth0"},  # of another engine
    ]
    world.order()
    assert list(cni.pe_network_gc(HOST, (network,), frozenset({valid.id}))) == []
    assert world.order() == ["GC one", "GC two"]


def test_what_fails_for_ever_is_said_once_when_nothing_can_be_left(world: World) -> None:
    failing = {**ONE, "behave": {"ADD": "error", "DEL": "error"}}
    guest = world.guest(world.network(world.conflist(failing)))
    with pytest.raises(DriverError, match=r"no luck.*; taking it back: .*no luck"):
        guest.attach()
    (kept,) = ledger.load_all()
    ledger.save(msgspec.structs.replace(kept, owner=(1, 1)))
    (line,) = cni.pe_network_gc(HOST, (), frozenset())
    assert "no luck" in line
    assert list(cni.pe_network_gc(HOST, (), frozenset())) == []
    assert world.ledger() == []


def test_what_a_killed_writer_left_is_swept(world: World) -> None:
    guest = world.guest(world.network(world.conflist(ONE)))
    guest.attach()
    directory = Path(ledger.DIRECTORY)
    half = directory / f"{guest.id}-lan.json.4194305"  # above PID_MAX_LIMIT
    half.write_text("{")
    assert list(cni.pe_network_gc(HOST, (), frozenset({guest.id}))) == []
    assert not half.exists()
    assert len(world.ledger()) == 1


@pytest.mark.parametrize(("version", "disabled"), [("1.0.0", False), ("1.1.0", True)])
def test_plugins_are_not_told_where_version_or_configuration_forbid_it(
    world: World, version: str, disabled: bool
) -> None:
    network = world.network(world.conflist(ONE, version=version, disableGC=disabled))
    assert list(cni.pe_network_gc(HOST, (network,), frozenset())) == []
    assert world.order("GC") == []


def test_what_cannot_be_collected_is_said(world: World) -> None:
    conf = world.conflist({**ONE, "behave": {"GC": "error"}}, version="1.1.0")
    with pytest.raises(DriverError, match="collect cni attachments: cni plugin one: GC: no luck"):
        cni.pe_network_gc(HOST, (world.network(conf),), frozenset())


# --- configurations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "truncated"),
        ("[]", "not a JSON object"),
        ('{"plugins": []}', "name None"),
        ('{"name": "a b", "plugins": [{"type": "x"}]}', "name 'a b'"),
        ('{"name": "n", "cniVersion": "1.0.0", "plugins": []}', "at least one plugin"),
        ('{"name": "n", "cniVersion": "1.0.0", "plugins": [{}]}', "plugins\\[0\\]: type None"),
        ('{"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "../x"}]}', "no name of a plugin"),
        ('{"name": "n", "cniVersion": "0.2.0", "plugins": [{"type": "x"}]}', "cniVersion 0.2.0: not one of"),
        ('{"name": "n", "plugins": [{"type": "x"}]}', "cniVersion 0.1.0: not one of"),
        ('{"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "x", "capabilities": {"a": 1}}]}', "capabilities"),
        (
            '{"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "x", "prevResult": {}}]}',
            "belongs to the runtime",
        ),
        ('{"name": "n", "cniVersion": "1.0.0", "disableGC": 3, "plugins": [{"type": "x"}]}', "disableGC: neither"),
    ],
)
def test_a_configuration_that_is_not_valid_is_refused_with_its_file_and_the_reason(
    world: World, text: str, words: str
) -> None:
    conf = world.directory / "bad.conflist"
    conf.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        cni.pe_network_create(world.network(conf))
    assert str(conf) in caught.value.message


def test_a_relative_path_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="not an absolute path"):
        cni.pe_network_create(world.network(Path("x.conflist")))


def test_a_single_plugins_configuration_is_a_list_of_one(world: World) -> None:
    world.install("one")
    conf = world.directory / "x.conf"
    conf.write_text(json.dumps({"cniVersion": "0.4.0", "name": "single", "type": "one", "own": 2}))
    world.guest(world.network(conf)).attach()
    (call,) = world.calls("ADD")
    assert (call["config"]["name"], call["config"]["own"], call["config"]["cniVersion"]) == ("single", 2, "0.4.0")


def test_a_network_is_found_by_its_name_in_a_directory(world: World) -> None:
    world.conflist(ONE, name="aaa")
    world.conflist(TWO, name="lan")
    options = values(cni.pe_network_info(), {"dir": str(world.directory), "path": str(world.bin)})
    world.guest(Network(name="lan", driver="cni", options=options)).attach()
    assert world.order() == ["ADD two"]
    world.guest(Network(name="cni", driver="cni", options=options)).attach()
    assert world.order() == ["ADD one"], "the driver's own network is the first there is"
    with pytest.raises(UsageError, match="cni network lam: not found in") as caught:
        cni.pe_network_create(Network(name="lam", driver="cni", options=options))
    assert caught.value.hint == "did you mean lan?"


def test_a_container_may_choose_its_configuration_on_the_drivers_own_network(world: World) -> None:
    conf = world.conflist(ONE)
    guest = world.guest(Network(name="cni", driver="cni", options=values(cni.pe_network_info())))
    guest.attach(options=values(cni.pe_network_info(), {"conf": str(conf), "path": str(world.bin)}))
    guest.detach()
    assert world.order() == ["ADD one", "DEL one"]


@pytest.mark.parametrize("text", ["0", "-1", "x", "inf", "nan", "4000"])
def test_a_time_that_is_none_is_refused(world: World, text: str) -> None:
    with pytest.raises(UsageError, match="timeout"):
        cni.pe_network_create(world.network(world.conflist(ONE), timeout=text))

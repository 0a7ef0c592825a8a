"""The JSON of containers, images, networks and volumes, held against the answers of dockerd 20.10.

`docker_types.json` has, for each field of three containers (plain, running, and with every option), an image, two
networks and a volume, the JSON types dockerd gave it; "*" stands for any key, "[]" for any element.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plugengine.api import container_json, object_json
from plugengine.bundle import Rlimit
from plugengine.model import Attachment, DeviceRate, GuestPath, HostPath, Interface, Limits, Network, Port
from plugengine.objects import Connection, Container, ContainerState, MountPoint, NetworkDetails
from plugengine.spec import ContainerSpec, Device, DriverChoice, Image, ImageConfig
from plugengine.volumes import Volume

DOCKER: dict[str, dict[str, list[str]]] = json.loads((Path(__file__).parent / "docker_types.json").read_text())

# Objects whose keys are names and addresses, not fields.
FREE_KEYS = {
    *("ExposedPorts", "Ports", "PortBindings", "Volumes", "Labels", "Sysctls", "Tmpfs", "Networks", "Containers"),
    *("Options", "DriverRecords", "DriverStats"),
}
# Fields of dockerd 20.10 that newer API versions have dropped, or that say what only its own parts need.
LEFT_OUT = {
    *("HostConfig.KernelMemory", "HostConfig.KernelMemoryTCP", "ContainerConfig", "Config.Healthcheck"),
    "HostConfig.Mounts",
}
# Null in docker too where an image or a caller gives none; the three containers all had one.
NULLABLE: dict[str, set[str]] = {"Config.Cmd": {"null"}, "Config.Volumes": {"null"}, "Config.Env": {"null"}}
NOT_DOCKERS = {
    *("Drivers", "DriverRecords", "DriverStats", "MissingDrivers", "UserMap", "Warnings", "State.MonitorPid"),
    *("State.ServerPid", "NetworkSettings.Interfaces", "DriverRecord", "History", "LayerDirectories", "Variant"),
}

ATTACHMENT = Attachment(
    interfaces=(Interface(name="eth0", mac="02:00:00:00:00:01", addresses=("10.88.0.2/16", "fd00::2/64")),),
    gateway="10.88.0.1",
    ports=(Port(host_ip="", host_port=8080, guest_port=80),),
)
PLAIN = Container(
    id="ab" * 32,
    name="plain",
    status="created",
    created_ns=1,
    image_id="sha256:" + "0" * 64,
    image_name="img:1",
    spec=ContainerSpec(image="img:1"),
    drivers=DriverChoice(storage="s", network="n", cgroup="c", namespace="l"),
)
RICH = Container(
    id="cd" * 32,
    name="rich",
    status="running",
    created_ns=1,
    image_id="sha256:" + "0" * 64,
    image_name="img:1",
    spec=ContainerSpec(
        image="img:1",
        command=("sleep", "100"),
        env=("A=b",),
        hostname="h",
        domainname="d",
        labels={"l": "m"},
        cap_add=("NET_ADMIN",),
        cap_drop=("CHOWN",),
        devices=(Device(host=HostPath("/dev/null"), guest=GuestPath("/dev/x"), access="rw"),),
        device_rules=("c 1:3 r",),
        rlimits=(Rlimit(name="nofile", soft=10, hard=20),),
        sysctls={"net.core.somaxconn": "5"},
        dns=("1.1.1.1",),
        dns_search=("s",),
        dns_options=("o",),
        extra_hosts=("a:1.2.3.4",),
        groups=("5",),
        no_new_privileges=True,
        stop_signal="INT",
        stop_timeout_s=3,
        ports=(
            Port(host_ip="", host_port=8080, guest_port=80),
            Port(host_ip="127.0.0.1", host_port=0, guest_port=90, protocol="udp"),
        ),
        limits=Limits(memory_bytes=1 << 26, pids=50, read_bps=(DeviceRate(major=8, minor=0, rate=1000),)),
    ),
    drivers=DriverChoice(storage="s", network="n", cgroup="c", namespace="l"),
    config=ImageConfig(
        entrypoint=("/entry",), env=("X=y",), volumes=(GuestPath("/vol"),), exposed_ports=("80/tcp",), user="root"
    ),
    state=ContainerState(pid=7, started_ns=1_700_000_000_123_456_789),
    mounts=(
        MountPoint(type="volume", target=GuestPath("/data"), source=HostPath("/v"), name="vv", read_only=True),
        MountPoint(type="bind", target=GuestPath("/host"), source=HostPath("/etc")),
        MountPoint(type="tmpfs", target=GuestPath("/t"), options=(("size", "1m"), ("noexec", None))),
    ),
    connections=(Connection(network="nn", attachment=ATTACHMENT),),
    files={"log": HostPath("/log"), "hosts": HostPath("/hosts")},
)
NETWORK = Network(name="nn", driver="n", subnet="10.88.0.0/16", gateway="10.88.0.1")
IMAGE = Image(
    id="sha256:1",
    digest="sha256:2",
    names=("img:1",),
    diff_ids=("sha256:3",),
    layers=(HostPath("/l"),),
    size_bytes=5,
    created="2024-01-01T00:00:00Z",
    architecture="amd64",
    os="linux",
    config=RICH.config,
)
OURS = {
    "container": (container_json.container(PLAIN), container_json.container(RICH)),
    "image": (object_json.image(IMAGE, {"config": {"Cmd": ["a"], "ExposedPorts": {"80/tcp": {}}}}),),
    "network": (
        object_json.network(NetworkDetails(network=NETWORK, record=None, containers=(RICH,))),
        object_json.network(NetworkDetails(network=Network(name="bridge", driver="n"), record=None, containers=())),
    ),
    "volume": (object_json.volume(Volume(name="vv", labels={"a": "b"}), "/v"),),
}


def types(value: Any, path: str = "") -> dict[str, set[str]]:
    """Return the JSON types found at each path of a value."""
    found = {path: {_type(value)}}
    inner: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        free = path.rsplit(".", 1)[-1] in FREE_KEYS
        inner = [(f"{path}.{'*' if free else key}".lstrip("."), each) for key, each in value.items()]
    elif isinstance(value, list):
        inner = [(f"{path}[]", each) for each in value]
    for name, each in inner:
        for key, kinds in types(each, name).items():
            found.setdefault(key, set()).update(kinds)
    return found


def _type(value: Any) -> str:
    names = {bool: "boolean", int: "number", str: "string", dict: "object", list: "array", type(None): "null"}
    return names[type(value)]


def merged(kind: str) -> dict[str, set[str]]:
    """Return the types of all our objects of a kind."""
    found: dict[str, set[str]] = {}
    for each in OURS[kind]:
        for path, kinds in types(json.loads(json.dumps(each))).items():
            found.setdefault(path, set()).update(kinds)
    return found


def below(path: str, names: set[str]) -> bool:
    return any(path == name or path.startswith((f"{name}.", f"{name}[")) for name in names)


@pytest.mark.parametrize("kind", sorted(DOCKER))
def test_every_field_docker_shows_is_there(kind: str) -> None:
    ours = merged(kind)
    fields = [path for path in DOCKER[kind] if "[]" not in path and not path.endswith("*")]
    assert [path for path in fields if path not in ours and not below(path, LEFT_OUT)] == []


@pytest.mark.parametrize("kind", sorted(DOCKER))
def test_a_field_has_a_type_docker_gives_it(kind: str) -> None:
    docker = DOCKER[kind]
    wrong = {
        path: sorted(kinds - set(docker[path]) - NULLABLE.get(path, set()))
        for path, kinds in merged(kind).items()
        if path in docker and docker[path] != ["null"]  # a value dockerd had none of
    }
    assert {path: kinds for path, kinds in wrong.items() if kinds} == {}


@pytest.mark.parametrize("kind", sorted(DOCKER))
def test_fields_docker_does_not_have_are_few_and_named(kind: str) -> None:
    fields = {path for path in merged(kind) if path and "[]" not in path and not path.endswith("*")}
    assert [path for path in fields if path not in DOCKER[kind] and not below(path, NOT_DOCKERS)] == []


def test_published_ports_are_keyed_by_the_port_inside() -> None:
    shape = container_json.container(RICH)
    assert shape["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
        "90/udp": [{"HostIp": "127.0.0.1", "HostPort": ""}],
    }
    assert shape["NetworkSettings"]["Ports"] == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}


def test_addresses_of_both_families_have_fields_of_their_own() -> None:
    endpoint = container_json.container(RICH)["NetworkSettings"]["Networks"]["nn"]
    assert (endpoint["IPAddress"], endpoint["IPPrefixLen"]) == ("10.88.0.2", 16)
    assert (endpoint["GlobalIPv6Address"], endpoint["GlobalIPv6PrefixLen"]) == ("fd00::2", 64)


def test_what_never_happened_has_docker_s_zero_time() -> None:
    state = container_json.container(PLAIN)["State"]
    assert state["StartedAt"] == state["FinishedAt"] == "0001-01-01T00:00:00Z"

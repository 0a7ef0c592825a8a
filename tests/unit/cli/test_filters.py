from __future__ import annotations

from typing import Any

import msgspec
import pytest

from plugengine.cli.commands.ps import describe, status_text
from plugengine.cli.commands.stats import Sample, cpu_percent
from plugengine.cli.filters import asks_for_all, container_filter
from plugengine.cli.parse.errors import FlagError
from plugengine.model import Attachment, CgroupStats, GuestPath, HostPath, Port
from plugengine.objects import Connection, Container, ContainerState, ContainerStats, MountPoint
from plugengine.spec import ContainerSpec, DriverChoice, ImageConfig

SECOND = 1_000_000_000
NOW = 10_000 * SECOND
ROW = Container(
    id="ab" * 32,
    name="web",
    status="running",
    created_ns=NOW - 3600 * SECOND,
    image_id="sha256:" + "cd" * 32,
    image_name="nginx:latest",
    spec=ContainerSpec(image="nginx", labels={"team": "web", "tier": ""}, command=("serve", "--all-of-it", "please")),
    drivers=DriverChoice(storage="overlay", network="bridge", cgroup="v1", namespace="linux"),
    state=ContainerState(started_ns=NOW - 120 * SECOND),
    config=ImageConfig(entrypoint=("run",), cmd=("ignored",), exposed_ports=("80/tcp", "443/tcp")),
    mounts=(MountPoint(type="volume", name="data", target=GuestPath("/data"), source=HostPath("/x")),),
    connections=(
        Connection(network="bridge", attachment=Attachment(ports=(Port(host_ip="", host_port=8080, guest_port=80),))),
    ),
)


def row(**changes: Any) -> Container:
    return msgspec.structs.replace(ROW, **changes)


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ([], True),
        (["id=abab"], True),
        (["id=ba"], False),
        (["name=we"], True),
        (["name=^we$"], False),
        (["name=^web$"], True),
        (["name=db", "name=web"], True),
        (["name=db"], False),
        (["status=running"], True),
        (["status=exited"], False),
        (["label=team"], True),
        (["label=team=web", "label=tier"], True),
        (["label=team=web", "label=other"], False),
        (["label=team=db"], False),
        (["ancestor=nginx"], True),
        (["ancestor=nginx:latest"], True),
        (["ancestor=cdcdcdcdcdcd"], True),
        (["ancestor=sha256:cdcdcdcdcdcd"], True),
        (["ancestor=cd"], False),
        (["ancestor=redis"], False),
        (["network=bridge"], True),
        (["volume=data", "storage=overlay"], True),
        (["volume=other"], False),
        (["name=web", "status=exited"], False),
    ],
)
def test_filters(filters: list[str], passes: bool) -> None:
    assert container_filter(filters)(ROW) is passes


def test_an_exit_code_is_one_of_a_container_that_has_ended() -> None:
    ended = row(status="exited", state=ContainerState(exit_code=3))
    assert container_filter(["exited=3"])(ended)
    assert not container_filter(["exited=0"])(ended)
    assert not container_filter(["exited=0"])(ROW)


@pytest.mark.parametrize(("text", "why"), [("colour=red", "colour is not id, name"), ("name", "not KEY=VALUE")])
def test_other_filters_are_refused(text: str, why: str) -> None:
    with pytest.raises(FlagError, match=why):
        container_filter([text])


def test_filters_that_can_find_ended_containers_look_at_all() -> None:
    assert asks_for_all(["status=exited"])
    assert asks_for_all(["exited=1"])
    assert not asks_for_all(["status=running", "name=x"])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "Up 2 minutes"),
        ({"status": "paused"}, "Up 2 minutes (Paused)"),
        ({"status": "created"}, "Created"),
        ({"status": "removing"}, "Removal In Progress"),
        (
            {"status": "exited", "state": ContainerState(exit_code=137, finished_ns=NOW - 5 * SECOND)},
            "Exited (137) 5 seconds ago",
        ),
    ],
)
def test_statuses(changes: dict[str, Any], text: str) -> None:
    assert status_text(row(**changes), NOW) == text


def test_a_line_about_a_container() -> None:
    line = describe(ROW, now_ns=NOW, whole=False)
    assert line["ID"] == "abababababab"
    assert line["Command"] == '"run serve --all-of-…"'
    assert line["Ports"] == "0.0.0.0:8080->80/tcp, 443/tcp"
    assert line["RunningFor"] == "About an hour ago"
    assert line["Labels"] == "team=web,tier="
    assert describe(row(status="exited", connections=()), now_ns=NOW, whole=True)["Ports"] == "80/tcp, 443/tcp"
    assert describe(ROW, now_ns=NOW, whole=True)["Command"] == '"run serve --all-of-it please"'


def sample(at_s: float, used_s: float | None) -> Sample:
    used = None if used_s is None else int(used_s * SECOND)
    return Sample(time_ns=int(at_s * SECOND), stats=ContainerStats(cgroup=CgroupStats(cpu_usage_ns=used)))


def test_processor_use_is_what_two_looks_differ_by() -> None:
    assert cpu_percent(sample(0, 1), sample(2, 2)) == "50.00%"
    assert cpu_percent(sample(0, 0), sample(1, 2)) == "200.00%"
    assert cpu_percent(None, sample(1, 2)) == "--"
    assert cpu_percent(sample(0, None), sample(1, None)) == "--"
    assert cpu_percent(sample(0, 5), sample(1, 1)) == "0.00%"  # restarted in between

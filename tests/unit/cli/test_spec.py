from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from plugengine.bundle import Rlimit
from plugengine.cli.commands.exec import exec_
from plugengine.cli.commands.run import create, run
from plugengine.cli.parse.errors import CommandLineError, FlagError
from plugengine.cli.spec import Surroundings, container_spec, exec_spec
from plugengine.model import GuestPath, Limits, Port
from plugengine.spec import ContainerSpec, ExecSpec, VolumeMount

AROUND = Surroundings(environ={"HOME": "/root"}, directory="/here", processors=2)


def spec_of(*words: str, command: click.Command = run) -> ContainerSpec:
    """Return what a command line means, without the engine."""
    values = dict(command.make_context("run", list(words)).params)
    image, *rest = values.pop("words")
    return container_spec(image, tuple(rest), values, AROUND)


def limits_of(*words: str) -> Limits:
    return spec_of(*words, "image").limits


def test_without_flags_everything_is_as_the_library_has_it() -> None:
    assert spec_of("image") == ContainerSpec(image="image")
    assert spec_of("image", command=create) == ContainerSpec(image="image")


def test_words_after_the_image_are_the_command_s() -> None:
    assert spec_of("-i", "image", "ls", "-la", "--rm", "--", "-x").command == ("ls", "-la", "--rm", "--", "-x")


def container_fields(**fields: Any) -> dict[str, Any]:
    return fields


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        pytest.param("-it", container_fields(interactive=True, tty=True), id="-it"),
        pytest.param("--interactive --tty=false", container_fields(interactive=True), id="long switches"),
        pytest.param("--name web", container_fields(name="web"), id="--name"),
        pytest.param("-e A=b -eHOME --env C=", container_fields(env=("A=b", "HOME=/root", "C=")), id="-e"),
        pytest.param("-w /srv", container_fields(working_dir="/srv"), id="-w"),
        pytest.param("-u 1000:1000", container_fields(user="1000:1000"), id="-u"),
        pytest.param("--user=", container_fields(user=""), id="an empty user is given"),
        pytest.param("--group-add audio --group-add 7", container_fields(groups=("audio", "7")), id="--group-add"),
        pytest.param("--entrypoint sh", container_fields(entrypoint=("sh",)), id="--entrypoint"),
        pytest.param("--entrypoint=", container_fields(entrypoint=("",)), id="no entry point"),
        pytest.param("-l a=b -l c", container_fields(labels={"a": "b", "c": ""}), id="-l"),
        pytest.param(
            "-h web --domainname example.org", container_fields(hostname="web", domainname="example.org"), id="-h"
        ),
        pytest.param(
            "--init --read-only --rm", container_fields(init=True, read_only=True, auto_remove=True), id="three"
        ),
        pytest.param("--shm-size 1g", container_fields(shm_size_bytes=1 << 30), id="--shm-size"),
        pytest.param(
            "--cap-add NET_ADMIN --cap-drop ALL", container_fields(cap_add=("NET_ADMIN",), cap_drop=("ALL",)), id="caps"
        ),
        pytest.param("--privileged", container_fields(privileged=True), id="--privileged"),
        pytest.param(
            "--sysctl net.core.somaxconn=9", container_fields(sysctls={"net.core.somaxconn": "9"}), id="--sysctl"
        ),
        pytest.param("--oom-score-adj -500", container_fields(oom_score_adj=-500), id="--oom-score-adj"),
        pytest.param(
            "--stop-signal INT --stop-timeout -1", container_fields(stop_signal="INT", stop_timeout_s=-1), id="stop"
        ),
        pytest.param("--pull never", container_fields(pull="never"), id="--pull"),
        pytest.param(
            "--ulimit core=0", container_fields(rlimits=(Rlimit(name="core", soft=0, hard=0),)), id="--ulimit"
        ),
        pytest.param("--net none", container_fields(network="none"), id="--net"),
        pytest.param("--network bridge", container_fields(network="bridge"), id="--network"),
        pytest.param("--net container:web", container_fields(modes={"net": "container:web"}), id="another's network"),
        pytest.param(
            "--pid host --ipc container:web --uts host --cgroupns private",
            container_fields(modes={"pid": "host", "ipc": "container:web", "uts": "host", "cgroup": "private"}),
            id="namespaces",
        ),
        pytest.param("--userns auto", container_fields(userns="auto"), id="--userns"),
        pytest.param(
            "--dns 9.9.9.9 --dns-search a --dns-opt ndots:2",
            container_fields(dns=("9.9.9.9",), dns_search=("a",), dns_options=("ndots:2",)),
            id="--dns",
        ),
        pytest.param("--add-host db:10.0.0.7", container_fields(extra_hosts=("db:10.0.0.7",)), id="--add-host"),
        pytest.param(
            "--ip 10.88.0.9 --mac-address 02:00:00:00:00:01",
            container_fields(ip="10.88.0.9", mac_address="02:00:00:00:00:01"),
            id="addresses",
        ),
        pytest.param(
            "--storage overlay --storage-opt volatile=on",
            container_fields(storage="overlay", storage_options={"volatile": "on"}),
            id="storage",
        ),
        pytest.param("--net-opt mtu=1400", container_fields(network_options={"mtu": "1400"}), id="--net-opt"),
        pytest.param("--cgroup-opt a=b", container_fields(cgroup_options={"a": "b"}), id="--cgroup-opt"),
        pytest.param(
            "--namespace-opt time_offset=60",
            container_fields(namespace_options={"time_offset": "60"}),
            id="--namespace-opt",
        ),
        pytest.param(
            "--cgroup v1 --namespace linux --cgroup-parent /tenants/a/",
            container_fields(cgroup="v1", namespace="linux", cgroup_parent="tenants/a"),
            id="drivers",
        ),
        pytest.param("--security-opt no-new-privileges", container_fields(no_new_privileges=True), id="--security-opt"),
    ],
)
def test_a_flag_sets_its_field_and_no_other(line: str, fields: dict[str, Any]) -> None:
    assert spec_of(*line.split(), "image") == msgspec.structs.replace(ContainerSpec(image="image"), **fields)


@pytest.mark.parametrize(
    ("line", "limits"),
    [
        pytest.param("-m 64m", Limits(memory_bytes=64 << 20), id="-m"),
        pytest.param("-m64m --memory-swap -1", Limits(memory_bytes=64 << 20, memory_swap_bytes=-1), id="--memory-swap"),
        pytest.param("--memory-reservation 1g", Limits(memory_reservation_bytes=1 << 30), id="--memory-reservation"),
        pytest.param("--cpus 0.5", Limits(cpu_quota_us=50_000), id="--cpus"),
        pytest.param(
            "--cpu-quota 20000 --cpu-period 10000", Limits(cpu_quota_us=20_000, cpu_period_us=10_000), id="quota"
        ),
        pytest.param("--cpu-quota -1", Limits(), id="no quota"),
        pytest.param("-c 512", Limits(cpu_shares=512), id="-c"),
        pytest.param("--cpuset-cpus 0-1 --cpuset-mems 0", Limits(cpuset_cpus="0-1", cpuset_mems="0"), id="cpuset"),
        pytest.param("--pids-limit 64", Limits(pids=64), id="--pids-limit"),
        pytest.param("--pids-limit 0", Limits(pids=-1), id="no limit of processes"),
        pytest.param("--blkio-weight 500", Limits(blkio_weight=500), id="--blkio-weight"),
        pytest.param("--blkio-weight 0 -c 0 -m 0", Limits(), id="zeros are none of our own"),
    ],
)
def test_limits(line: str, limits: Limits) -> None:
    assert limits_of(*line.split()) == limits


def test_mounts_of_all_three_flags_come_together() -> None:
    spec = spec_of("-v", "./a:/a:ro", "--mount", "type=tmpfs,target=/b", "--tmpfs", "/c", "image")
    assert spec.mounts == (
        VolumeMount(type="bind", source="/here/a", target=GuestPath("/a"), read_only=True, create_source=True),
        VolumeMount(type="tmpfs", target=GuestPath("/b")),
        VolumeMount(type="tmpfs", target=GuestPath("/c")),
    )


def test_a_port_given_twice_is_published_once() -> None:
    spec = spec_of("-p", "8080:80", "-p", "8080:80", "--expose", "99", "image")
    assert spec.ports == (Port(host_ip="", host_port=8080, guest_port=80),)


def test_exposed_ports_are_published_with_all() -> None:
    spec = spec_of("-P", "-p", "8080:80", "--expose", "80-81", "image")
    assert [(port.host_port, port.guest_port) for port in spec.ports] == [(8080, 80), (0, 81)]
    assert spec.publish_all


@pytest.mark.parametrize(
    ("line", "why"),
    [
        pytest.param("-m lots", "--memory lots: not a size", id="memory"),
        pytest.param("--cpus 3", "--cpus 3: this host has 2", id="cpus"),
        pytest.param("--cpus 1 --cpu-quota 5000", "--cpus: not together", id="cpus and quota"),
        pytest.param("--blkio-weight 5", "not between 10 and 1000", id="weight"),
        pytest.param("--pids-limit many", "--pids-limit many", id="pids"),
        pytest.param("--stop-signal NONE", "there is no such signal", id="signal"),
        pytest.param("--pull sometimes", "--pull sometimes", id="pull"),
        pytest.param("--ip ::1", "is not an IPv4 address", id="ip"),
        pytest.param("--dns nowhere", "--dns nowhere", id="dns"),
        pytest.param("--cgroup-parent ../x", "--cgroup-parent ../x", id="parent"),
        pytest.param("--net container:web -p 80:80", "ports are published by the container", id="ports of another"),
        pytest.param("--net container:web -h x", "it has a name already", id="name of another"),
        pytest.param("--net container:web --dns 9.9.9.9", "--dns 9.9.9.9: not with", id="dns of another"),
        pytest.param("--net container:web --add-host a:1.2.3.4", "--add-host a:1.2.3.4: not", id="hosts of another"),
        pytest.param("--net container:web --ip 10.88.0.9", "--ip 10.88.0.9: not with", id="ip of another"),
        pytest.param("--uts host -h x", "--hostname x: not with --uts host", id="name of the host"),
        pytest.param("--uts container:web --domainname x", "--domainname x: not with", id="domain of another"),
        pytest.param("--net container:web --mac-address 02:00:00:00:00:01", "not with --network", id="mac of another"),
        pytest.param("--env-file /no/such", "--env-file /no/such: no such file", id="env file"),
        pytest.param("--rm=maybe", "--rm maybe", id="switch"),
    ],
)
def test_what_is_not_understood_names_the_flag_and_ends_with_2(line: str, why: str) -> None:
    with pytest.raises(CommandLineError, match=why) as caught:
        spec_of(*line.split(), "image")
    assert caught.value.exit_code == 2


def test_files_named_by_flags_are_read(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A=file\nB=file\n")
    (tmp_path / "labels").write_text("team=web\n")
    (tmp_path / "seccomp").write_text("{}")
    spec = spec_of(
        *("--env-file", f"{tmp_path}/env", "-e", "A=flag", "--label-file", f"{tmp_path}/labels"),
        *("--security-opt", f"seccomp={tmp_path}/seccomp", "image"),
    )
    assert (spec.env, dict(spec.labels), spec.seccomp) == (("A=flag", "B=file"), {"team": "web"}, "{}")


@pytest.mark.parametrize("name", sorted(number.name for number in signal.Signals if number.name != "SIGCLD"))
def test_every_signal_of_this_host_may_stop_a_container(name: str) -> None:
    assert spec_of("--stop-signal", name, "image").stop_signal == name


def test_an_exec_has_its_own_words_and_variables() -> None:
    line = ["-it", "-e", "HOME", "-u", "1", "-w", "/srv", "--privileged", "web", "ls", "-d", "--", "x"]
    values = dict(exec_.make_context("exec", line).params)
    assert values.pop("container") == "web"
    assert exec_spec(values.pop("words"), values, AROUND.environ) == ExecSpec(
        command=("ls", "-d", "--", "x"),
        env=("HOME=/root",),
        user="1",
        working_dir=GuestPath("/srv"),
        tty=True,
        interactive=True,
        privileged=True,
    )


def test_a_value_too_long_to_read_is_shortened() -> None:
    with pytest.raises(FlagError) as caught:
        spec_of("-m", "x" * 10_000, "image")
    assert len(caught.value.message) < 200

"""The plan of a container's processes."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from plugengine.bundle import Identity, Process, Rlimit
from plugengine.errors import NotSupportedError, UsageError
from plugengine.kernel.rlimits import RLIM_INFINITY, RLIMITS
from plugengine.model import GuestPath, HostPath, IdRange, UserMap
from plugengine.runtime import describe
from plugengine.runtime.environment import environment, with_home, working_directory
from plugengine.runtime.process import identify, may_trace, plan_exec, plan_process
from plugengine.runtime.rlimits import check_rlimits
from plugengine.runtime.signals import signal_number
from plugengine.spec import ContainerSpec, ExecSpec, ImageConfig


@pytest.fixture
def rootfs(tmp_path: Path) -> HostPath:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:\nalice:x:1000:1000::/home/alice:\n")
    (tmp_path / "etc/group").write_text("video:x:44:\n")
    return HostPath(str(tmp_path))


def planned(config: ImageConfig | None = None, **spec: Any) -> Process:
    spec.setdefault("command", ("true",))
    return plan_process(ContainerSpec(image="x", **spec), config or ImageConfig(), hostname="box")


@pytest.mark.parametrize(
    ("asked", "image", "expected"),
    [
        (None, "", "/"),
        (None, "/app", "/app"),
        (None, "app/", "/app"),
        ("/x/../y", "/app", "/y"),
        ("//deep", "", "/deep"),
    ],
)
def test_the_working_directory_is_absolute(asked: str | None, image: str, expected: str) -> None:
    spec = ContainerSpec(image="x", working_dir=None if asked is None else GuestPath(asked))
    assert working_directory(spec, ImageConfig(working_dir=image)) == expected


def test_a_relative_working_directory_of_the_caller_is_refused() -> None:
    with pytest.raises(UsageError, match="--workdir app: not an absolute path"):
        working_directory(ContainerSpec(image="x", working_dir=GuestPath("app")), ImageConfig())


def test_the_environment_is_layered_and_a_bare_name_takes_away() -> None:
    layers = (("A=1", "B=1", "=odd"), ("A=2", "B", "C=x=y"))
    assert environment(layers, hostname="box", terminal=True) == (
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=box",
        "TERM=xterm",
        "A=2",
        "C=x=y",
    )


def test_a_home_of_the_caller_stays_and_bytes_survive() -> None:
    env = environment((("HOME=/x", "B=\udcff"),), hostname="box", terminal=False)
    assert env[-2:] == ("HOME=/x", "B=\udcff")
    assert with_home(env, b"/root") == env
    assert with_home(("A=1",), b"/\xff") == ("A=1", "HOME=/\udcff")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGTERM", 15),
        ("term", 15),
        ("15", 15),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("rtmax", signal.SIGRTMAX),
        ("KILL", 9),
    ],
)
def test_a_signal_has_a_name_or_a_number(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "SIG", "NOPE", "0", "65", "-1", "1000000000000", "TERM+1", "RTMIN+99", "SIG_DFL", "٣", "RTMIN+٣"]
)
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no such signal"):
        signal_number(text)


def test_a_stop_signal_that_is_none_is_refused_before_anything_starts() -> None:
    planned(ImageConfig(stop_signal="SIGQUIT"))
    with pytest.raises(UsageError, match="no such signal"):
        planned(ImageConfig(stop_signal="SIGNOPE"))


def test_capabilities_are_one_set() -> None:
    assert planned(cap_drop=("ALL",), cap_add=("CHOWN",)).capabilities == ("CAP_CHOWN",)


@pytest.mark.parametrize(("user", "groups"), [("1000", ()), ("0:1000", ()), ("0", ("1000",))])
def test_ids_outside_of_the_map_are_refused(rootfs: HostPath, user: str, groups: tuple[str, ...]) -> None:
    few = (IdRange(guest=0, host=100000, size=1000),)
    with pytest.raises(UsageError, match="1000: not in the container's user namespace"):
        identify(planned(user=user, groups=groups), rootfs, UserMap(uids=few, gids=few))


def test_names_become_ids_in_the_containers_own_files(rootfs: HostPath) -> None:
    found = identify(planned(user="alice", groups=("video",)), rootfs, None)
    assert found.identity == Identity(uid=1000, gid=1000, groups=(1000, 44))
    assert found.env[-1] == "HOME=/home/alice"


def test_a_container_traces_others_with_the_capability_alone() -> None:
    assert not may_trace(ContainerSpec(image="x"))
    assert may_trace(ContainerSpec(image="x", cap_add=("SYS_PTRACE",)))


def test_what_runs_is_said_and_values_of_the_environment_are_not() -> None:
    asked = planned(
        command=("sh", "-c", "echo a b"),
        user="alice",
        groups=("video",),
        env=("TOKEN=secret",),
        cap_drop=("ALL",),
        no_new_privileges=True,
        rlimits=(Rlimit(name="nofile", soft=1, hard=2),),
        oom_score_adj=5,
        tty=True,
        init=True,
    )
    assert list(describe.process(asked)) == [
        "run sh -c 'echo a b' as user alice with groups video in /",
        "environment: PATH HOSTNAME TERM TOKEN",
        "capabilities: none",
        "seccomp profile: default, no new privileges",
        "limits: nofile=1:2",
        "oom_score_adj: 5",
        "with a terminal and below an init process",
    ]


def test_a_zero_byte_is_refused() -> None:
    with pytest.raises(UsageError, match="zero byte"):
        planned(command=("a\0b",))


def test_exec_takes_the_containers_settings_and_its_own_over_them() -> None:
    spec = ContainerSpec(
        image="x", user="alice", env=("A=1", "B=1"), working_dir=GuestPath("/srv"), init=True, tty=True
    )
    config = ImageConfig(entrypoint=("/entry",))
    plan = plan_exec(spec, config, ExecSpec(command=("sh",), env=("B=2",)), hostname="box")
    assert (plan.argv, plan.user, plan.cwd, plan.init, plan.terminal) == (("sh",), "alice", "/srv", False, False)
    assert {"A=1", "B=2"} <= set(plan.env)
    asked = ExecSpec(command=("sh",), user="root", working_dir=GuestPath("/tmp"), privileged=True)
    other = plan_exec(spec, config, asked, hostname="box")
    assert (other.user, other.cwd) == ("root", "/tmp")
    assert set(other.capabilities) > set(plan.capabilities)


def test_exec_without_a_command_is_an_error() -> None:
    with pytest.raises(UsageError, match="exec: no command given"):
        plan_exec(ContainerSpec(image="x"), ImageConfig(cmd=("a",)), ExecSpec(command=()), hostname="b")


HARD = dict.fromkeys(RLIMITS, 1000)


def limits(*asked: tuple[int, int], may_raise: bool = False) -> list[tuple[str, int, int]]:
    wanted = [Rlimit(name="nofile", soft=soft, hard=hard) for soft, hard in asked]
    found = check_rlimits(wanted, hard_limits=HARD, may_raise=may_raise)
    return [(each.name, each.soft, each.hard) for each in found]


def test_a_limit_below_ours_is_set() -> None:
    assert limits((10, 1000)) == [("nofile", 10, 1000)]


def test_of_two_limits_of_one_name_the_last_is_set() -> None:
    assert limits((10, 1000), (5, 6)) == [("nofile", 5, 6)]


@pytest.mark.parametrize("hard", [1001, RLIM_INFINITY])
def test_a_hard_limit_above_ours_needs_the_right_to_raise_it(hard: int) -> None:
    with pytest.raises(NotSupportedError, match="above the engine's own 1000"):
        limits((10, hard))
    assert limits((10, hard), may_raise=True) == [("nofile", 10, hard)]


@pytest.mark.parametrize(
    "bad",
    [
        Rlimit(name="nofiles", soft=1, hard=1),
        Rlimit(name="nofile", soft=2, hard=1),
        Rlimit(name="nofile", soft=RLIM_INFINITY, hard=1),
        Rlimit(name="nofile", soft=-2, hard=1),
    ],
)
def test_a_limit_that_cannot_be_is_refused(bad: Rlimit) -> None:
    with pytest.raises(UsageError, match="--ulimit"):
        check_rlimits([bad], hard_limits=HARD, may_raise=True)

"""The plan of a container's processes."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from plugengine.errors import NotSupportedError, UsageError
from plugengine.model import GuestPath, IdRange, UserMap
from plugengine.runtime.accounts import Accounts
from plugengine.runtime.guest import ProcessPlan, ProcessRequest, plan_exec, plan_process, signal_number
from plugengine.runtime.guest.environment import environment, working_directory
from plugengine.runtime.guest.rlimits import NUMBERS, UNLIMITED, plan_rlimits
from plugengine.spec import ContainerSpec, ExecSpec, ImageConfig, Rlimit

ACCOUNTS = Accounts(passwd=b"root:x:0:0::/root:\nalice:x:1000:1000::/home/alice:\n", group=b"video:x:44:\n")


def planned(config: ImageConfig | None = None, user_map: UserMap | None = None, **spec: Any) -> ProcessPlan:
    spec.setdefault("command", ("true",))
    return plan_process(
        ProcessRequest(
            spec=ContainerSpec(image="x", **spec),
            config=config or ImageConfig(),
            hostname="box",
            accounts=ACCOUNTS,
            seccomp=None,
            user_map=user_map,
        )
    )


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
    assert environment(layers, hostname="box", home=b"/root", tty=True) == {
        b"PATH": b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        b"HOSTNAME": b"box",
        b"TERM": b"xterm",
        b"A": b"2",
        b"C": b"x=y",
        b"HOME": b"/root",
    }


def test_a_home_of_the_caller_stays_and_bytes_survive() -> None:
    result = environment((("HOME=/x", "B=\udcff"),), hostname="box", home=b"/root", tty=False)
    assert (result[b"HOME"], result[b"B"]) == (b"/x", b"\xff")
    assert b"TERM" not in result


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


def test_the_stop_signal_is_the_callers_or_the_images_or_term() -> None:
    image = ImageConfig(stop_signal="SIGQUIT")
    assert planned().stop_signal == signal.SIGTERM
    assert planned(image).stop_signal == signal.SIGQUIT
    assert planned(image, stop_signal="INT").stop_signal == signal.SIGINT


def test_capabilities_are_one_set() -> None:
    plan = planned(cap_drop=("ALL",), cap_add=("CHOWN",))
    assert plan.capabilities == 1
    assert plan.last_capability >= 40


@pytest.mark.parametrize(("user", "groups"), [("1000", ()), ("0:1000", ()), ("0", ("1000",))])
def test_ids_outside_of_the_map_are_refused(user: str, groups: tuple[str, ...]) -> None:
    few = (IdRange(guest=0, host=100000, size=1000),)
    with pytest.raises(UsageError, match="1000: not in the container's user namespace"):
        planned(user=user, groups=groups, user_map=UserMap(uids=few, gids=few))


def test_a_zero_byte_is_refused() -> None:
    with pytest.raises(UsageError, match="zero byte"):
        planned(command=("a\0b",))


def test_exec_takes_the_containers_settings_and_its_own_over_them() -> None:
    request = ProcessRequest(
        spec=ContainerSpec(
            image="x", user="alice", env=("A=1", "B=1"), working_dir=GuestPath("/srv"), init=True, tty=True
        ),
        config=ImageConfig(entrypoint=("/entry",)),
        hostname="box",
        accounts=ACCOUNTS,
        seccomp=None,
    )
    plan = plan_exec(request, ExecSpec(command=("sh",), env=("B=2",)))
    assert (plan.argv, plan.uid, plan.cwd, plan.init, plan.tty, plan.hostile) == (
        (b"sh",),
        1000,
        b"/srv",
        False,
        False,
        True,
    )
    assert (plan.environ[b"A"], plan.environ[b"B"]) == (b"1", b"2")
    other = plan_exec(request, ExecSpec(command=("sh",), user="root", working_dir=GuestPath("/tmp"), privileged=True))
    assert (other.uid, other.cwd, other.environ[b"HOME"]) == (0, b"/tmp", b"/root")
    assert other.capabilities.bit_count() > plan.capabilities.bit_count()


def test_exec_without_a_command_is_an_error() -> None:
    request = ProcessRequest(
        spec=ContainerSpec(image="x"), config=ImageConfig(cmd=("a",)), hostname="b", accounts=ACCOUNTS, seccomp=None
    )
    with pytest.raises(UsageError, match="exec: no command given"):
        plan_exec(request, ExecSpec(command=()))


HARD = dict.fromkeys(NUMBERS.values(), 1000)
NOFILE = NUMBERS["nofile"]


def limits(
    *asked: tuple[int, int], default: tuple[int, int] | None = None, may_raise: bool = False
) -> tuple[tuple[tuple[int, int, int], ...], tuple[str, ...]]:
    return plan_rlimits(
        [Rlimit(name="nofile", soft=soft, hard=hard) for soft, hard in asked],
        [] if default is None else [Rlimit(name="nofile", soft=default[0], hard=default[1])],
        hard_limits=HARD,
        may_raise=may_raise,
    )


def test_a_limit_below_ours_is_set() -> None:
    assert limits((10, 1000)) == (((NOFILE, 10, 1000),), ())


@pytest.mark.parametrize("hard", [1001, UNLIMITED])
def test_a_hard_limit_above_ours_needs_the_right_to_raise_it(hard: int) -> None:
    with pytest.raises(NotSupportedError, match="above the engine's own 1000"):
        limits((10, hard))
    assert limits((10, hard), may_raise=True) == (((NOFILE, 10, hard),), ())


@pytest.mark.parametrize("default", [(5000, 6000), (UNLIMITED, UNLIMITED)])
def test_a_default_above_ours_is_lowered_with_a_warning(default: tuple[int, int]) -> None:
    found, (warning,) = limits(default=default)
    assert found == ((NOFILE, 1000, 1000),)
    assert warning.startswith("default ulimit nofile=")


def test_what_the_caller_asks_for_replaces_the_default() -> None:
    assert limits((5, 6), default=(5000, 6000)) == (((NOFILE, 5, 6),), ())


@pytest.mark.parametrize(
    "bad",
    [
        Rlimit(name="nofiles", soft=1, hard=1),
        Rlimit(name="nofile", soft=2, hard=1),
        Rlimit(name="nofile", soft=UNLIMITED, hard=1),
        Rlimit(name="nofile", soft=-2, hard=1),
    ],
)
def test_a_limit_that_cannot_be_is_refused(bad: Rlimit) -> None:
    with pytest.raises(UsageError, match="--ulimit"):
        plan_rlimits([bad], [], hard_limits=HARD, may_raise=True)

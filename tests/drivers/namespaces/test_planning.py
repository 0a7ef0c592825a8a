"""The plan of the `linux` namespace driver: modes and maps in, flags and joins out."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from plugengine_namespaces import pe_namespace_info, pe_namespace_plan, planning

from plugengine.errors import NotSupportedError, UsageError
from plugengine.kernel import process
from plugengine.model import Capability, IdRange, NamespacePlan, NamespaceRequest, UserMap

ALL_PRIVATE = dict.fromkeys(("pid", "net", "mnt", "uts", "ipc", "cgroup"), "private") | {
    "user": "host",
    "time": "host",
}
MAP = UserMap(uids=(IdRange(guest=0, host=100_000, size=65_536),), gids=(IdRange(guest=0, host=100_000, size=65_536),))


def request(
    modes: Mapping[str, str] | None = None,
    *,
    user_map: UserMap | None = None,
    options: Mapping[str, str] | None = None,
) -> NamespaceRequest:
    return NamespaceRequest(container_id="c1", modes=modes or {}, user_map=user_map, options=options or {})


def plan(
    modes: Mapping[str, str] | None = None,
    *,
    user_map: UserMap | None = None,
    options: Mapping[str, str] | None = None,
) -> NamespacePlan:
    return planning.plan(request(modes, user_map=user_map, options=options), lambda _: None)


def test_an_ordinary_container_gets_everything_but_user_and_time_for_itself() -> None:
    found = plan()
    assert found.clone_flags == (
        process.CLONE_NEWPID | process.CLONE_NEWNET | process.CLONE_NEWNS | process.CLONE_NEWUTS | process.CLONE_NEWIPC
    )
    assert found.unshare_flags == process.CLONE_NEWCGROUP
    assert found.join == ()
    assert found.user_map is None
    assert plan(ALL_PRIVATE) == found


def test_a_host_namespace_is_neither_made_nor_joined() -> None:
    found = plan({"net": "host", "pid": "host", "cgroup": "host"})
    assert not found.clone_flags & (process.CLONE_NEWNET | process.CLONE_NEWPID)
    assert found.unshare_flags == 0
    assert found.join == ()


def test_the_pid_namespace_is_joined_last() -> None:
    found = plan({"pid": "container:41", "net": "container:42", "ipc": "container:43", "uts": "container:44"})
    assert found.join == (
        ("uts", "/proc/44/ns/uts"),
        ("ipc", "/proc/43/ns/ipc"),
        ("net", "/proc/42/ns/net"),
        ("pid", "/proc/41/ns/pid"),
    )
    assert found.clone_flags == process.CLONE_NEWNS


def test_a_user_map_brings_a_user_namespace() -> None:
    found = plan(user_map=MAP)
    assert found.clone_flags & process.CLONE_NEWUSER
    assert found.user_map == MAP


@pytest.mark.parametrize(
    ("text", "offsets"),
    [
        ("86400", {"monotonic": 86400, "boottime": 86400}),
        ("-5", {"monotonic": -5, "boottime": -5}),
        ("boottime=7", {"boottime": 7}),
        ("monotonic=1,boottime=-2", {"monotonic": 1, "boottime": -2}),
    ],
)
def test_a_time_offset_brings_a_time_namespace(text: str, offsets: dict[str, int]) -> None:
    found = plan(options={"time_offset": text})
    assert found.clone_flags & process.CLONE_NEWTIME
    assert dict(found.time_offsets) == offsets


@pytest.mark.parametrize("text", ["soon", "1.5", "realtime=3", "monotonic=", "1,2", "monotonic=1,monotonic=1"])
def test_a_bad_time_offset_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="option time_offset"):
        plan(options={"time_offset": text})


def one_range(guest: int = 0, host: int = 1000, size: int = 10) -> UserMap:
    ranges = (IdRange(guest=guest, host=host, size=size),)
    return UserMap(uids=ranges, gids=ranges)


@pytest.mark.parametrize(
    ("modes", "user_map", "words"),
    [
        pytest.param({"disk": "private"}, None, "namespace 'disk'", id="unknown-kind"),
        pytest.param({"pid": "shared"}, None, "--pid shared", id="unknown-mode"),
        pytest.param({"pid": "container:web"}, None, "--pid container:web", id="unresolved-name"),
        pytest.param({"pid": "container:0"}, None, "--pid container:0", id="pid-0"),
        pytest.param({"mnt": "host"}, None, "always its own", id="host-mounts"),
        pytest.param({"mnt": "container:7"}, None, "always its own", id="joined-mounts"),
        pytest.param({"user": "container:7"}, None, "can't be joined", id="joined-user"),
        pytest.param({"user": "private"}, None, "no map", id="user-without-map"),
        pytest.param({"user": "host"}, MAP, "--userns host", id="map-without-user"),
        pytest.param({"pid": "host"}, MAP, "--pid host: not with a user namespace", id="user-and-host-pid"),
        pytest.param({"net": "host"}, MAP, "--net host", id="user-and-host-net"),
        pytest.param({"pid": "container:9"}, MAP, "--pid container:9", id="user-and-joined-pid"),
        pytest.param({}, UserMap(uids=(), gids=MAP.gids), "0 ranges of uids", id="empty-map"),
        pytest.param({}, one_range(guest=5), "do not map 0", id="no-root"),
        pytest.param({}, one_range(host=2**32 - 5), "not all between", id="beyond-32-bits"),
        pytest.param({}, one_range(host=-1), "not all between", id="negative"),
        pytest.param({}, one_range(size=0), "not all between", id="empty-range"),
        pytest.param(
            {},
            UserMap(uids=(IdRange(guest=0, host=10, size=10), IdRange(guest=9, host=50, size=2)), gids=MAP.gids),
            "guest uids 0\\+10 and 9 overlap",
            id="overlap",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(modes: dict[str, str], user_map: UserMap | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan(modes, user_map=user_map)


def test_offsets_do_not_go_with_the_hosts_clocks() -> None:
    with pytest.raises(UsageError, match="time namespace is host"):
        plan({"time": "host"}, options={"time_offset": "1"})


def test_a_kind_the_host_lacks_is_refused_only_when_asked_for() -> None:
    def missing(name: str) -> str | None:
        return "none here" if name == "user" else None

    assert planning.plan(request(), missing).clone_flags
    with pytest.raises(NotSupportedError, match="--userns: none here"):
        planning.plan(request(user_map=MAP), missing)


def test_the_hooks_agree_with_the_planner() -> None:
    assert pe_namespace_plan(request()) == plan()
    assert Capability.USER_NAMESPACE in pe_namespace_info().capabilities

"""Which capabilities a container gets."""

from __future__ import annotations

import pytest

from plugengine.errors import NotSupportedError, UsageError
from plugengine.kernel.capabilities import capability_set
from plugengine.kernel.credentials import capget
from plugengine.security import capabilities

EVERYTHING = (1 << 41) - 1


def resolve(
    *, add: tuple[str, ...] = (), drop: tuple[str, ...] = (), privileged: bool = False, of: int = EVERYTHING
) -> int:
    return capabilities.resolve(add, drop, privileged=privileged, available=of)


def test_the_default_is_the_fourteen_of_docker() -> None:
    assert capabilities.names(resolve()) == {
        "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
        "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
        "CAP_AUDIT_WRITE",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        pytest.param(("net_admin",), (), capabilities.DEFAULT | capability_set(("NET_ADMIN",)), id="add"),
        pytest.param((), ("CAP_CHOWN",), capabilities.DEFAULT & ~capability_set(("CHOWN",)), id="drop"),
        pytest.param(("ALL",), (), EVERYTHING, id="add-all"),
        pytest.param(("all",), ("sys_admin",), EVERYTHING & ~capability_set(("SYS_ADMIN",)), id="all-but-one"),
        pytest.param((), ("ALL",), 0, id="drop-all"),
        pytest.param(("chown",), ("ALL",), capability_set(("CHOWN",)), id="only-one"),
        pytest.param(("ALL",), ("ALL",), EVERYTHING, id="add-all-wins"),
        pytest.param(("CAP_CHOWN",), ("chown",), capabilities.DEFAULT, id="added-after-dropped"),
    ],
)
def test_lists_combine_as_in_docker(add: tuple[str, ...], drop: tuple[str, ...], expected: int) -> None:
    assert resolve(add=add, drop=drop) == expected


def test_a_privileged_container_gets_all_there_is_whatever_the_lists_say() -> None:
    assert resolve(drop=("ALL",), privileged=True) == EVERYTHING


def test_what_the_engine_lacks_is_left_out_of_sets_and_refused_by_name() -> None:
    lacking = EVERYTHING & ~capability_set(("SYS_RESOURCE", "MKNOD"))
    assert resolve(of=lacking) == capabilities.DEFAULT & ~capability_set(("MKNOD",))
    assert resolve(add=("ALL",), of=lacking) == lacking
    assert resolve(privileged=True, of=lacking) == lacking
    with pytest.raises(NotSupportedError, match="--cap-add CAP_SYS_RESOURCE"):
        resolve(add=("sys_resource",), of=lacking)


@pytest.mark.parametrize("flag", ["add", "drop"])
def test_an_unknown_name_is_answered_with_a_near_one(flag: str) -> None:
    with pytest.raises(UsageError, match=rf"--cap-{flag} NET_ADMN: .*CAP_NET_ADMIN"):
        resolve(**{flag: ("NET_ADMN",)})  # type: ignore[arg-type]


def test_the_engines_own_set_is_the_limit_when_none_is_given() -> None:
    assert capabilities.resolve((), (), privileged=True) == capget()[1]

"""What the monitor opens for its child."""

from __future__ import annotations

import os

import pytest
from plugengine_runtime_native.inside import InsidePlan, plan_inside
from plugengine_runtime_native.sources import open_sources

from plugengine.bundle import Bundle, DeviceNode, GuestMount, Process
from plugengine.errors import NotFoundError
from plugengine.kernel.mount import MS_REC
from plugengine.model import GuestPath, HostPath, IdRange, NamespacePlan, UserMap
from tests.conftest import need_root

# In a user namespace devices are bound, so that they are opened too.
MAP = UserMap(uids=(IdRange(guest=0, host=100000, size=65536),), gids=(IdRange(guest=0, host=100000, size=65536),))


def _plan(*, source: str = "/", device: str = "/dev/null", rootfs: str = "/") -> InsidePlan:
    node = DeviceNode(path=GuestPath("/dev/x"), type="c", major=1, minor=3, mode=0o666, host=HostPath(device))
    return plan_inside(
        Bundle(
            container_id="c" * 64,
            root=HostPath(rootfs),
            namespaces=NamespacePlan(clone_flags=0, user_map=MAP),
            mounts=(
                GuestMount(target=GuestPath("/dev"), fstype="tmpfs"),
                GuestMount(target=GuestPath("/data"), fstype="bind", source=source, flags=MS_REC, follow=True),
            ),
            devices=(node,),
            process=Process(argv=("true",), env=()),
        )
    )


@pytest.mark.parametrize(
    ("missing", "error"),
    [
        ({"source": "/no/such"}, "bind /no/such: no such file or directory on the host"),
        ({"rootfs": "/no/such"}, "bind /no/such: no such file or directory on the host"),
        ({"device": "/dev/nonesuch"}, "bind /dev/nonesuch: no such file or directory on the host"),
    ],
)
def test_what_is_missing_is_named_and_nothing_stays_open(missing: dict[str, str], error: str) -> None:
    need_root()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(NotFoundError) as caught:
        open_sources(_plan(**missing))
    assert str(caught.value) == error
    assert os.listdir("/proc/self/fd") == before


def test_descriptors_are_close_on_exec_and_closed_at_the_end() -> None:
    need_root()
    with open_sources(_plan()) as sources:
        opened = sources.descriptors()
        assert opened
        assert not any(os.get_inheritable(fd) for fd in opened)
    for fd in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)

"""What the monitor opens for its child."""

from __future__ import annotations

import os

import pytest

from plugengine.errors import NotFoundError
from plugengine.model import GuestPath, HostPath
from plugengine.runtime.guest import GuestRequest, ResolvedMount, open_sources, plan_guest
from plugengine.spec import ContainerSpec, Device, ImageConfig
from tests.conftest import need_root


def _request(*, source: str = "/", device: str = "/dev/null", rootfs: str = "/") -> GuestRequest:
    return GuestRequest(
        rootfs=HostPath(rootfs),
        spec=ContainerSpec(image="x"),
        config=ImageConfig(),
        hostname="box",
        mounts=(ResolvedMount(target=GuestPath("/data"), source=HostPath(source)),),
        devices=(Device(host=HostPath(device), guest=GuestPath("/dev/x")),),
    )


@pytest.mark.parametrize(
    ("missing", "error"),
    [
        ({"source": "/no/such"}, "bind /no/such: no such file or directory on the host"),
        ({"rootfs": "/no/such"}, "bind /no/such: no such file or directory on the host"),
        ({"device": "/dev/nonesuch"}, "device /dev/nonesuch: no such device on this host"),
        ({"device": "/etc/passwd"}, "device /etc/passwd: not a character or block device"),
    ],
)
def test_what_is_missing_is_named_and_nothing_stays_open(missing: dict[str, str], error: str) -> None:
    need_root()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(NotFoundError) as caught:
        open_sources(plan_guest(_request(**missing)))
    assert str(caught.value) == error
    assert os.listdir("/proc/self/fd") == before


def test_descriptors_are_close_on_exec_and_closed_at_the_end() -> None:
    need_root()
    with open_sources(plan_guest(_request())) as sources:
        opened = sources.descriptors()
        assert opened
        assert not any(os.get_inheritable(fd) for fd in opened)
    for fd in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)

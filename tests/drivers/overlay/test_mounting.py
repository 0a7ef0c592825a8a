"""Mounts as data: a table, without a kernel."""

from __future__ import annotations

import pytest
from plugengine_overlay.mounting import common_parent, mapped_parent, overlay, unique

from plugengine.errors import DriverError
from plugengine.kernel.mount import MS_RDONLY
from plugengine.model import HostPath, IdRange, StorageRequest, UserMap


def request(*chain: str, read_only: bool = False) -> StorageRequest:
    return StorageRequest(
        container_id="c1",
        chain=tuple(map(HostPath, chain)),
        directory=HostPath("/c"),
        target=HostPath("/t"),
        read_only=read_only,
    )


def paths(count: int, length: int) -> tuple[HostPath, ...]:
    return tuple(HostPath("/l/" + str(number).rjust(length, "0")) for number in range(count))


def test_layers_are_appended_one_by_one_topmost_first() -> None:
    found = overlay(request(), (HostPath("/l/low"), HostPath("/l/high")), (("xino", "off"),), appending=True)
    assert (found.fstype, found.target, found.flags) == ("overlay", "/t", 0)
    assert found.options == (
        ("lowerdir+", "/l/high"),
        ("lowerdir+", "/l/low"),
        ("upperdir", "/c/upper"),
        ("workdir", "/c/work"),
        ("xino", "off"),
    )


def test_for_an_older_kernel_they_are_joined_and_escaped() -> None:
    found = overlay(request(), (HostPath("/l/a:b"), HostPath("/l/c,d\\e")), (), appending=False)
    assert dict(found.options)["lowerdir"] == "/l/c\\,d\\\\e:/l/a\\:b"


def test_without_layers_an_empty_directory_stands_for_one() -> None:
    assert overlay(request(), (), (), appending=True).options[0] == ("lowerdir+", "/c/empty")


def test_a_read_only_root_is_mounted_read_only() -> None:
    assert overlay(request(read_only=True), (HostPath("/l/a"),), (), appending=True).flags == MS_RDONLY


def test_names_longer_than_a_string_of_fsconfig_are_joined() -> None:
    found = overlay(request(), paths(2, 300), (), appending=True)
    assert [key for key, _ in found.options] == ["lowerdir", "upperdir", "workdir"]


def test_names_that_fill_a_page_are_replaced_by_short_links() -> None:
    found = overlay(request(), paths(120, 60), (), appending=False, links=HostPath("/c/l"))
    assert found.source == "/c/l"
    assert dict(found.options)["lowerdir"] == ":".join(str(number) for number in range(120))


def test_names_that_fill_a_page_without_links_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(DriverError, match="names of 120 layers are too long") as caught:
        overlay(request(), paths(120, 60), (), appending=False)
    assert "--root" in (caught.value.hint or "")


def test_of_equal_layers_the_last_one_stays() -> None:
    assert unique(tuple(map(HostPath, ("/a", "/b", "/a", "/c", "/b")))) == ("/a", "/c", "/b")


def test_mapped_layers_come_from_a_mount_of_their_common_parent() -> None:
    ranges = (IdRange(guest=0, host=1000, size=10),)
    asked = request("/r/layers/sha256/a", "/r/layers/sha256/b")
    found = mapped_parent(
        StorageRequest(
            container_id="c1",
            chain=asked.chain,
            directory=asked.directory,
            target=asked.target,
            user_map=UserMap(uids=ranges, gids=ranges),
        )
    )
    assert (found.fstype, found.source, found.target) == ("bind", "/r/layers/sha256", "/c/lower")
    assert common_parent((HostPath("/r/layers/a"),)) == "/r/layers"

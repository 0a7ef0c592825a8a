"""Owners of a container in a user namespace: the guest's on the disk, the host's in the mount."""

from __future__ import annotations

import errno
import os
import stat

import pytest
from plugengine_fuse_union.owners import Owners

from plugengine.model import IdRange, UserMap
from tests.drivers.fuse_union.conftest import MakeWorld, as_user
from tests.drivers.fuse_union.world import World

BASE = 200_000
MAP = UserMap(
    uids=(IdRange(guest=0, host=BASE, size=1000), IdRange(guest=1000, host=BASE + 5000, size=1)),
    gids=(IdRange(guest=0, host=BASE, size=65536),),
)


@pytest.fixture
def mapped(make_world: MakeWorld) -> World:
    world = make_world(user_map=MAP)
    world.base.parent.chmod(0o755)
    (world.layers[0] / "root").touch()
    (world.layers[0] / "user").touch()
    os.chown(world.layers[0] / "user", 1000, 7)
    (world.layers[0] / "stranger").touch()
    os.chown(world.layers[0] / "stranger", 4242, 7)
    return world.mount()


def owner(path: os.PathLike[str]) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_uid, status.st_gid


def test_owners_of_a_layer_are_shown_mapped_and_strangers_as_nobody(mapped: World) -> None:
    assert owner(mapped.root) == (BASE, BASE)
    assert owner(mapped.root / "root") == (BASE, BASE)
    assert owner(mapped.root / "user") == (BASE + 5000, BASE + 7)
    assert owner(mapped.root / "stranger") == (65534, BASE + 7)


def test_what_the_guest_makes_and_changes_is_stored_unmapped(mapped: World) -> None:
    def act() -> None:
        (mapped.root / "new").write_text("x")
        (mapped.root / "dir").mkdir()
        (mapped.root / "root").write_text("changed")

    as_user(BASE, act)
    os.chown(mapped.root / "new", BASE + 5000, BASE + 9)
    assert owner(mapped.root / "new") == (BASE + 5000, BASE + 9)
    assert owner(mapped.upper / "new") == (1000, 9)
    assert owner(mapped.upper / "dir") == (0, 0)
    assert owner(mapped.upper / "root") == (0, 0)


def test_an_owner_outside_the_map_cannot_be_stored(mapped: World) -> None:
    with pytest.raises(OSError) as caught:
        os.chown(mapped.root / "root", 5, 5)
    assert caught.value.errno == errno.EOVERFLOW
    with pytest.raises(OSError) as caught:
        (mapped.root / "by-the-host").touch()
    assert caught.value.errno == errno.EOVERFLOW
    assert os.listdir(mapped.upper) == []


def test_names_in_access_control_lists_are_translated(mapped: World) -> None:
    # user::rwx, user:<host id of guest 3>:rw-, group::r--, mask::rw-, other::---
    entry = (BASE + 3).to_bytes(4, "little").hex()
    acl = bytes.fromhex(f"02000000 01000700ffffffff 02000600{entry} 04000400ffffffff 10000600ffffffff 20000000ffffffff")
    path = mapped.root / "root"
    os.setxattr(path, "system.posix_acl_access", acl)
    assert os.getxattr(path, "system.posix_acl_access") == acl
    assert os.getxattr(mapped.upper / "root", "system.posix_acl_access")[12:20] == b"\x02\x00\x06\x00\x03\x00\x00\x00"
    as_user(BASE + 3, lambda: path.write_text("by the named user"))
    with pytest.raises(AssertionError):
        as_user(BASE + 4, lambda: path.write_text("by another"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o760


@pytest.mark.parametrize(
    ("disk", "shown"),
    [
        pytest.param((0, 0), (BASE, BASE), id="first"),
        pytest.param((999, 65535), (BASE + 999, BASE + 65535), id="last"),
        pytest.param((1001, 65536), (65534, 65534), id="beyond"),
    ],
)
def test_a_table_translates_exactly_its_ranges(disk: tuple[int, int], shown: tuple[int, int]) -> None:
    owners = Owners([(0, BASE, 1000), (1000, BASE + 5000, 1)], [(0, BASE, 65536)])
    assert owners.to_host(*disk) == shown
    if 65534 not in shown:
        assert (owners.uid_to_disk(shown[0]), owners.gid_to_disk(shown[1])) == disk

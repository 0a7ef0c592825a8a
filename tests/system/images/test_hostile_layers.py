"""Layers made by an attacker: each attack by its name, and nothing of it reaches the host."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plugengine.errors import ImageError, UsageError
from plugengine.images.layers.apply import apply_layer
from plugengine.images.tar.limits import Caps
from plugengine.model import HostPath
from tests.conftest import need_tool
from tests.system.images.conftest import describe
from tests.unit.images.tars import make_tar, member


@dataclass
class Victim:
    """A layer directory inside a host directory that must not change."""

    outside: Path
    layer: Path

    def apply(self, *members: object, caps: Caps | None = None) -> None:
        tar = make_tar(members)  # type: ignore[arg-type]
        apply_layer(io.BytesIO(tar), HostPath(str(self.layer)), what="l", caps=caps or Caps())

    def assert_refused(self, match: str, *members: object, caps: Caps | None = None) -> None:
        """The layer is refused, and nothing of it is left."""
        with pytest.raises(ImageError, match=match):
            self.apply(*members, caps=caps)
        assert not self.layer.exists()


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (outside / "secret").chmod(0o600)
    before = describe(outside)
    yield Victim(outside, tmp_path / "layer")
    assert describe(outside) == before


@pytest.mark.parametrize(
    "name", ["../outside/evil", "a/../../outside/evil", "/../outside/evil", "..", "./../x", "a/../.."]
)
def test_dot_dot_never_leads_above_the_root(victim: Victim, name: str) -> None:
    victim.assert_refused("leads out of the layer", member(name, content=b"evil"))


def test_dot_dot_inside_the_layer_is_folded_as_docker_does(victim: Victim) -> None:
    victim.apply(member("a/b/../c", content=b"x"))
    assert (victim.layer / "a/c").read_bytes() == b"x"


def test_absolute_names_are_taken_as_relative(victim: Victim) -> None:
    victim.apply(member(f"{victim.outside}/evil", content=b"x"), member("//etc/y", content=b"y"))
    assert (victim.layer / str(victim.outside)[1:] / "evil").read_bytes() == b"x"
    assert (victim.layer / "etc/y").read_bytes() == b"y"


@pytest.mark.parametrize("target", ["{outside}", "../outside", "../../../../../../../..{outside}"])
def test_a_symlink_as_parent_stays_inside_the_layer(victim: Victim, target: str) -> None:
    link = target.format(outside=victim.outside)
    victim.apply(
        member("d", "symlink", linkname=link), member("d/evil", content=b"evil"), member("d/secret", content=b"x")
    )
    inside = victim.layer / os.path.normpath("/" + link).lstrip("/")
    assert (inside / "evil").read_bytes() == b"evil"


def test_a_chain_of_symlinks_stays_inside_the_layer(victim: Victim) -> None:
    victim.apply(
        member("a", "symlink", linkname="b/.."), member("b", "symlink", linkname=".."),
        member("c", "symlink", linkname=f"a/a/a{victim.outside}"), member("c/evil", content=b"x"),
    )  # fmt: skip
    assert (victim.layer / str(victim.outside).lstrip("/") / "evil").read_bytes() == b"x"


def test_a_loop_of_symlinks_is_refused(victim: Victim) -> None:
    victim.assert_refused(
        "too many levels", member("a", "symlink", linkname="b"), member("b", "symlink", linkname="a"), member("a/f")
    )


def test_a_file_never_goes_through_a_symlink_of_its_own_name(victim: Victim) -> None:
    victim.apply(member("f", "symlink", linkname=f"{victim.outside}/secret"), member("f", content=b"overwritten"))
    assert not (victim.layer / "f").is_symlink()
    assert (victim.layer / "f").read_bytes() == b"overwritten"


def test_a_directory_entry_never_changes_the_target_of_a_symlink(victim: Victim) -> None:
    victim.apply(member("d", "symlink", linkname=str(victim.outside)), member("d", "directory", mode=0o777, uid=7))
    assert (victim.layer / "d").is_dir()
    assert not (victim.layer / "d").is_symlink()


def test_times_and_owners_of_symlinks_are_set_on_the_link_itself(victim: Victim) -> None:
    victim.apply(member("l", "symlink", linkname=f"{victim.outside}/secret", uid=5, gid=6, mtime=77))
    found = (victim.layer / "l").lstat()
    assert (found.st_uid, found.st_gid, found.st_mtime) == (5, 6, 77)


@pytest.mark.parametrize("target", ["{outside}/secret", "../outside/secret", "missing", "d", "", "."])
def test_hard_links_reach_files_of_this_layer_only(victim: Victim, target: str) -> None:
    link = target.format(outside=victim.outside)
    victim.assert_refused("hard link to|leads out", member("d", "directory"), member("l", "link", linkname=link))


def test_a_hard_link_through_a_symlink_parent_stays_inside(victim: Victim) -> None:
    victim.assert_refused(
        "not in this layer",
        member("d", "symlink", linkname=str(victim.outside)),
        member("l", "link", linkname="d/secret"),
    )


def test_a_hard_link_to_a_symlink_links_the_symlink(victim: Victim) -> None:
    victim.apply(member("s", "symlink", linkname=f"{victim.outside}/secret"), member("l", "link", linkname="s"))
    assert (victim.layer / "l").is_symlink()
    # A write to the name replaces the link, it does not go through it.
    victim.layer.rename(victim.layer.with_name("kept"))
    victim.apply(
        member("s", "symlink", linkname=f"{victim.outside}/secret"),
        member("l", "link", linkname="s"),
        member("l", content=b"evil"),
    )
    assert (victim.layer / "l").read_bytes() == b"evil"


def test_a_hard_link_to_a_whiteout_is_refused(victim: Victim) -> None:
    victim.assert_refused("which is no file", member(".wh.gone"), member("l", "link", linkname="gone"))


def test_a_forged_whiteout_is_refused(victim: Victim) -> None:
    victim.assert_refused("would be taken for a whiteout", member("etc/passwd", "character", devmajor=0, devminor=0))


def test_device_nodes_are_kept_as_docker_does(victim: Victim) -> None:
    victim.apply(
        member("null", "character", devmajor=1, devminor=3, mode=0o666),
        member("disk", "block", devmajor=259, devminor=70_000),
    )
    null, disk = (victim.layer / "null").stat(), (victim.layer / "disk").stat()
    assert (stat.S_ISCHR(null.st_mode), null.st_rdev) == (True, os.makedev(1, 3))
    assert (stat.S_ISBLK(disk.st_mode), disk.st_rdev) == (True, os.makedev(259, 70_000))


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.."])
def test_a_whiteout_of_the_directory_itself_is_refused(victim: Victim, name: str) -> None:
    victim.assert_refused("a whiteout of nothing", member("d", "directory"), member(name))


def test_a_directory_named_like_a_whiteout_is_refused(victim: Victim) -> None:
    victim.assert_refused("reserved", member(".wh.d/f"))


def test_a_whiteout_never_removes_through_a_symlink(victim: Victim) -> None:
    victim.apply(member("d", "symlink", linkname=str(victim.outside)), member("d/.wh.secret"))
    assert (victim.outside / "secret").read_text() == "secret"


@pytest.mark.parametrize(
    "name",
    ["trusted.overlay.opaque", "trusted.overlay.redirect", "trusted.x", "user.overlay.opaque",
     "user.containers.override_stat", "user.fuseoverlayfs.opaque", "security.selinux", "security.ima", "system.other"],
)  # fmt: skip
def test_attributes_that_steer_the_host_are_dropped(victim: Victim, name: str) -> None:
    attributes: dict[str, Any] = {"pax_headers": {f"SCHILY.xattr.{name}": "y", "SCHILY.xattr.user.kept": "v"}}
    victim.apply(
        member("f", **attributes), member("d", "directory", **attributes), member("s", "symlink", linkname="f")
    )
    assert os.listxattr(victim.layer / "f") == os.listxattr(victim.layer / "d") == ["user.kept"]


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ([member("f", content=b"x" * 5000)], "more than 4096 bytes"),
        (
            [member(f"f{number}", content=b"x" * 100) for number in range(60)],
            "more than 4096 bytes|bytes when unpacked",
        ),
        ([member(f"f{number}") for number in range(6)], "more than 5 entries"),
        ([member("/".join("d" * 12))], "directories deep"),
        ([member("n" * 300)], "the name is too long"),
        ([member("n/" * 3000)], "the name is too long"),
        ([member("f", pax_headers={"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 50)})], "more than 4096 bytes"),
        ([member("f", pax_headers={"comment": "x" * 3000})], "bytes of extended headers"),
    ],
    ids=["large file", "many bytes", "many entries", "deep", "long name", "long path", "huge hole", "large header"],
)
def test_a_bomb_is_refused_at_its_cap_and_leaves_nothing(victim: Victim, members: list[object], match: str) -> None:
    caps = Caps(
        entries=5 if "entries" in match else 100,
        bytes=4096 if "4096 bytes" in match else 1 << 20,
        depth=10,
        header_bytes=2000,
    )
    if "name is too long" in match:
        caps = Caps()
    victim.assert_refused(match, *members, caps=caps)


@pytest.mark.parametrize(
    ("attributes", "match"),
    [
        ({"uid": 0xFFFFFFFF}, "out of range"),
        ({"gid": 1 << 33}, "out of range"),
        ({"mtime": 1 << 60}, "out of range"),
    ],
)  # fmt: skip
def test_numbers_the_kernel_would_misread_are_refused(victim: Victim, attributes: dict[str, Any], match: str) -> None:
    victim.assert_refused(match, member("f", **attributes))


def test_a_device_number_that_would_wrap_to_another_device_is_refused(victim: Victim) -> None:
    victim.assert_refused("device number", member("dev", "character", devmajor=0o7777777, devminor=3))


def test_a_file_as_parent_is_refused(victim: Victim) -> None:
    victim.assert_refused("not a directory", member("f", content=b"x"), member("f/g", content=b"y"))


def test_the_root_must_stay_a_directory(victim: Victim) -> None:
    victim.assert_refused("the root must be a directory", member("./", "symlink", linkname=str(victim.outside)))


def test_a_default_access_list_is_not_inherited_by_later_entries(victim: Victim) -> None:
    # acl(5) in its xattr form: version 2; user::rwx, user 7 rwx, group::r-x, mask::rwx, other::r-x
    nobody = 0xFFFFFFFF
    rules = ((1, 7, nobody), (2, 7, 7), (4, 5, nobody), (16, 7, nobody), (32, 5, nobody))
    entries = b"".join(struct.pack("<HHI", *rule) for rule in rules)
    acl = (b"\2\0\0\0" + entries).decode("utf-8", "surrogateescape")
    victim.apply(
        member("d", "directory", pax_headers={"SCHILY.xattr.system.posix_acl_default": acl}), member("d/f", mode=0o600)
    )
    assert os.listxattr(victim.layer / "d/f") == []
    assert stat.S_IMODE((victim.layer / "d/f").stat().st_mode) == 0o600
    assert os.getxattr(victim.layer / "d", "system.posix_acl_default") == b"\2\0\0\0" + entries


@pytest.mark.parametrize(("name", "kind"), [("d", "directory"), ("f", "file"), ("./", "directory")])
@pytest.mark.parametrize("attribute", ["system.posix_acl_access", "system.posix_acl_default"])
def test_an_access_list_that_is_none_is_blamed_on_its_entry(
    victim: Victim, attribute: str, kind: str, name: str
) -> None:
    bad = member(name, kind, pax_headers={f"SCHILY.xattr.{attribute}": "nonsense"})
    victim.assert_refused(
        rf"^l: entry {name}/?: attribute {attribute}: (operation not supported|permission denied)$", bad
    )


@pytest.mark.parametrize("parent", ["", "implied/"])
def test_a_directory_replaced_by_a_symlink_leaves_its_attributes_to_nobody(victim: Victim, parent: str) -> None:
    victim.apply(
        member(f"{parent}d", "directory", mtime=1000), member(f"{parent}e", "directory", mtime=2000),
        member(f"{parent}d", "symlink", linkname="e", mtime=3000),
    )  # fmt: skip
    assert (victim.layer / f"{parent}e").stat().st_mtime == 2000
    assert (victim.layer / f"{parent}d").lstat().st_mtime == 3000


@pytest.mark.parametrize("name", ["d", "implied/d", "d/implied/x"])
def test_a_directory_replaced_by_a_loop_of_symlinks_is_no_fault_of_the_disk(victim: Victim, name: str) -> None:
    victim.apply(member(name, "directory"), member(name.partition("/")[0], "symlink", linkname="loop"),
                 member("loop", "symlink", linkname="loop"))  # fmt: skip
    assert (victim.layer / "loop").is_symlink()


def test_what_lies_below_a_loop_of_symlinks_is_blamed_on_its_entry(victim: Victim) -> None:
    loop = member("loop", "symlink", linkname="loop")
    victim.assert_refused("^l: entry loop/x: too many levels of symbolic links$", loop, member("loop/x"))
    victim.assert_refused("^l: entry h: hard link to loop/x, which is not in this layer$",
                  loop, member("h", "link", linkname="loop/x"))  # fmt: skip


def test_attributes_the_filesystem_cannot_keep_are_blamed_on_their_entry(tmp_path: Path) -> None:
    image, mounted = tmp_path / "ext4", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run([need_tool("mkfs.ext4"), "-q", "-F", image], check=True, capture_output=True)
    mounted.mkdir()
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        victim = Victim(tmp_path, mounted / "layer")
        many = {f"SCHILY.xattr.user.{number}": "v" * 1000 for number in range(5)}  # one block has 4096 bytes
        victim.assert_refused(
            "^l: entry f: more extended attributes than this filesystem", member("f", pax_headers=many)
        )
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_set_group_id_directory_passes_nothing_on(victim: Victim) -> None:
    victim.apply(member("d", "directory", mode=0o2755, gid=55), member("d/e/f"), member("d/g", "directory", mode=0o700))
    assert [(victim.layer / name).stat().st_gid for name in ("d/e", "d/e/f", "d/g")] == [0, 0, 0]
    assert stat.S_IMODE((victim.layer / "d/g").stat().st_mode) == 0o700
    assert stat.S_IMODE((victim.layer / "d/e").stat().st_mode) == 0o755


def test_a_directory_that_is_not_empty_is_not_touched(victim: Victim) -> None:
    victim.layer.mkdir()
    (victim.layer / "mine").write_text("x")
    with pytest.raises(UsageError, match="is not empty"):
        victim.apply(member("f"))
    assert (victim.layer / "mine").read_text() == "x"


def test_an_empty_directory_given_is_empty_again_after_a_failure(victim: Victim) -> None:
    victim.layer.mkdir(mode=0o700)
    with pytest.raises(ImageError):
        victim.apply(member("a/b/c", content=b"x"), member("../x"))
    assert list(victim.layer.iterdir()) == []


def test_the_error_names_the_layer_and_the_entry_and_hides_control_characters(victim: Victim) -> None:
    victim.assert_refused(
        r"^l: entry a\\x1b\[31m\\n\\udcff: hard link to", member("a\x1b[31m\n\udcff", "link", linkname="none")
    )

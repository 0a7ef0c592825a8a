"""Layers applied and written again: whiteouts, replacements, implied directories, and trees that come back equal."""

from __future__ import annotations

import io
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from plugengine.errors import ImageError, NotFoundError
from plugengine.images.layers.apply import apply_layer
from plugengine.images.layers.diff import diff_layer
from plugengine.model import HostPath, IdRange, UserMap
from tests.conftest import need_tool
from tests.unit.images.tars import make_tar, member

OPAQUE = "trusted.overlay.opaque"


def apply(directory: Path, *members: Any, **options: Any) -> Path:
    apply_layer(io.BytesIO(make_tar(members)), HostPath(str(directory)), **options)
    return directory


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return OPAQUE in os.listxattr(path) and os.getxattr(path, OPAQUE) == b"y"


# --- whiteouts ---


def test_a_whiteout_becomes_a_zero_device(tmp_path: Path) -> None:
    layer = apply(tmp_path / "l", member("d/.wh.gone"), member(".wh.top"))
    assert is_whiteout(layer / "d/gone")
    assert is_whiteout(layer / "top")


def test_an_opaque_marker_becomes_an_attribute(tmp_path: Path) -> None:
    layer = apply(tmp_path / "l", member("d/.wh..wh..opq"), member("d/f"))
    assert is_opaque(layer / "d")
    assert sorted(os.listdir(layer / "d")) == ["f"]


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_a_whiteout_never_hides_what_the_same_layer_brings(tmp_path: Path, whiteout_first: bool) -> None:
    members = [member(".wh.f"), member("f", content=b"new")]
    layer = apply(tmp_path / "l", *(members if whiteout_first else reversed(members)))
    assert (layer / "f").read_bytes() == b"new"


@pytest.mark.parametrize("whiteout_first", [True, False])
@pytest.mark.parametrize("brings", ["entry", "child"])
def test_a_directory_that_replaces_what_a_whiteout_hides_is_opaque(
    tmp_path: Path, whiteout_first: bool, brings: str
) -> None:
    new = member("d", "directory") if brings == "entry" else member("d/child")
    members = [member(".wh.d"), new]
    assert is_opaque(apply(tmp_path / "l", *(members if whiteout_first else reversed(members))) / "d")


def test_what_aufs_left_in_old_images_is_skipped(tmp_path: Path) -> None:
    layer = apply(tmp_path / "l", member(".wh..wh.aufs"), member(".wh..wh.plnk/1.2", content=b"x"), member("f"))
    assert os.listdir(layer) == ["f"]


def test_names_of_255_bytes_can_be_used_and_hidden(tmp_path: Path) -> None:
    long = "n" * 251
    layer = apply(tmp_path / "l", member("m" * 255, content=b"x"), member(".wh." + long))
    assert (layer / ("m" * 255)).read_bytes() == b"x"
    assert is_whiteout(layer / long)


# --- replacing ---


@pytest.mark.parametrize("second", ["file", "symlink", "fifo", "character", "link"])
def test_a_directory_gives_way_with_all_below_it(tmp_path: Path, second: str) -> None:
    new = member("x", second, linkname="other", devmajor=1, devminor=3)
    layer = apply(tmp_path / "l", member("other"), member("x/a/b", content=b"old"), new, member("x2/c"))
    assert not stat.S_ISDIR((layer / "x").lstat().st_mode)
    assert sorted(os.listdir(layer)) == ["other", "x", "x2"]


def test_a_replaced_directory_is_found_by_its_new_meaning(tmp_path: Path) -> None:
    layer = apply(
        tmp_path / "l", member("real", "directory"), member("d/f", content=b"1"),
        member("d", "symlink", linkname="real"), member("d/f", content=b"2"),
    )  # fmt: skip
    assert (layer / "real/f").read_bytes() == b"2"


def test_a_second_entry_for_a_directory_changes_it_and_keeps_its_content(tmp_path: Path) -> None:
    layer = apply(
        tmp_path / "l",
        member("d", "directory", mode=0o700),
        member("d/f"),
        member("d", "directory", mode=0o711, mtime=9),
    )
    found = (layer / "d").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime, os.listdir(layer / "d")) == (0o711, 9, ["f"])


def test_a_replaced_hard_link_leaves_the_other_name_alone(tmp_path: Path) -> None:
    layer = apply(
        tmp_path / "l", member("a", content=b"1"), member("b", "link", linkname="a"), member("b", content=b"2")
    )
    assert ((layer / "a").read_bytes(), (layer / "b").read_bytes()) == (b"1", b"2")


def test_a_hard_link_to_itself_changes_nothing(tmp_path: Path) -> None:
    layer = apply(tmp_path / "l", member("a", content=b"1"), member("./a", "link", linkname="a"))
    assert (layer / "a").read_bytes() == b"1"


# --- attributes ---


def test_set_user_id_survives_the_change_of_owner(tmp_path: Path) -> None:
    found = (apply(tmp_path / "l", member("su", content=b"x", mode=0o6755, uid=3, gid=4)) / "su").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o6755, 3, 4)


def test_file_capabilities_survive_the_change_of_owner(tmp_path: Path) -> None:
    # struct vfs_cap_data, revision 2, CAP_NET_RAW permitted and effective; include/uapi/linux/capability.h
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    text = capability.decode("utf-8", "surrogateescape")
    ping = member("ping", content=b"x", uid=3, pax_headers={"SCHILY.xattr.security.capability": text})
    assert os.getxattr(apply(tmp_path / "l", ping) / "ping", "security.capability") == capability


def test_times_are_kept_to_the_nanosecond_of_directories_too(tmp_path: Path) -> None:
    headers: dict[str, Any] = {"pax_headers": {"mtime": "1700000000.123456789"}}
    layer = apply(
        tmp_path / "l", member("d", "directory", **headers), member("d/f", **headers),
        member("d/s", "symlink", linkname="f", **headers), member("d/p", "fifo", **headers),
        member("./", "directory", **headers),
    )  # fmt: skip
    times = {(layer / name).lstat().st_mtime_ns for name in (".", "d", "d/f", "d/s", "d/p")}
    assert times == {1_700_000_000_123_456_789}


def test_the_umask_has_no_say(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        layer = apply(tmp_path / "l", member("a/b/f", mode=0o666))
    finally:
        os.umask(old)
    modes = [stat.S_IMODE((layer / name).stat().st_mode) for name in (".", "a", "a/b", "a/b/f")]
    assert modes == [0o755, 0o755, 0o755, 0o666]


def test_a_directory_the_tar_forgot_looks_as_it_does_in_the_layers_below(tmp_path: Path) -> None:
    low = apply(
        tmp_path / "low", member("./", "directory", mode=0o711), member("tmp", "directory", mode=0o1777, mtime=5, uid=9)
    )
    middle = apply(
        tmp_path / "middle", member("etc", "directory", mode=0o750), member("var", "symlink", linkname="tmp")
    )
    high = apply(
        tmp_path / "high", member("tmp/f"), member("etc/x/y"), member("var/z"), parents=[str(low), str(middle)]
    )
    tmp, etc = (high / "tmp").stat(), (high / "etc").stat()
    assert (stat.S_IMODE(tmp.st_mode), tmp.st_uid, tmp.st_mtime) == (0o1777, 9, 5)
    assert stat.S_IMODE(etc.st_mode) == 0o750
    assert stat.S_IMODE(high.stat().st_mode) == 0o755  # the highest layer below, not the lowest, has a say
    assert [stat.S_IMODE((high / name).stat().st_mode) for name in ("etc/x", "var")] == [0o755, 0o755]


def test_sparse_files_stay_sparse(tmp_path: Path) -> None:
    tar = need_tool("tar")
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "holes", "wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
        file.truncate(100 << 20)
    for form in ("--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"):
        kind = [form] if form.startswith("--format") else ["--format=pax", form]
        packed = subprocess.run([tar, "-cS", *kind, "-C", source, "."], check=True, capture_output=True).stdout
        assert len(packed) < 1 << 20
        layer = tmp_path / form.strip("-")
        apply_layer(io.BytesIO(packed), HostPath(str(layer)))
        found = (layer / "holes").stat()
        assert (found.st_size, found.st_blocks < 1000) == (100 << 20, True)
        with open(layer / "holes", "rb") as file:
            file.seek(64 << 20)
            assert file.read(4) == b"end\0"


# --- failing ---


def test_a_wrong_digest_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="its digest is sha256:"):
        apply(tmp_path / "l", member("d/f", content=b"x"), expected="sha256:" + "0" * 64)
    assert not (tmp_path / "l").exists()


def test_a_truncated_layer_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    data = make_tar([member("d/f", content=b"x" * 3000), member("e", content=b"y" * 3000)])
    for length in range(100, 7000, 300):
        with pytest.raises(ImageError, match="truncated"):
            apply_layer(io.BytesIO(data[:length]), HostPath(str(tmp_path / "l")))
        assert not (tmp_path / "l").exists()


def test_a_deep_tree_is_removed_without_recursion_when_the_layer_fails(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        apply(tmp_path / "l", member("d/" * 250 + "f", content=b"x"), member("../x"))
    assert not (tmp_path / "l").exists()


# --- writing ---


def test_the_layer_of_an_upper_directory_is_what_docker_expects(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "etc").mkdir(parents=True)
    (upper / "etc/motd").write_text("hi")
    os.link(upper / "etc/motd", upper / "etc/same")
    os.mknod(upper / "gone", stat.S_IFCHR, 0)
    (upper / "fresh").mkdir()
    os.setxattr(upper / "fresh", OPAQUE, b"y")
    os.setxattr(upper / "etc", "trusted.overlay.impure", b"y")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(upper / "socket"))
    out = io.BytesIO()
    diff_id, size = diff_layer(HostPath(str(upper)), out)
    listing = subprocess.run(
        [need_tool("tar"), "-tf", "-"], input=out.getvalue(), capture_output=True, check=True
    ).stdout.split()
    assert listing == [
        b"./", b"etc/", b"etc/motd", b"etc/same", b"fresh/", b"fresh/.wh..wh..opq", b".wh.gone",
    ]  # fmt: skip
    assert size == len(out.getvalue())
    assert diff_layer(HostPath(str(upper))) == (diff_id, size)


def test_a_name_that_a_layer_would_take_for_a_whiteout_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".wh.x").write_text("")
    with pytest.raises(ImageError, match=r"file .wh.x: names that begin with .wh. are reserved in a layer"):
        diff_layer(HostPath(str(tmp_path)))


@pytest.mark.parametrize("name", ["trusted.overlay.redirect", "trusted.overlay.metacopy"])
def test_a_renamed_or_data_less_file_of_an_upper_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "d").mkdir()
    os.setxattr(tmp_path / "d", name, b"/x")
    with pytest.raises(ImageError, match=f"file d/: has {name}, which a layer cannot hold"):
        diff_layer(HostPath(str(tmp_path)))


def test_a_tree_deeper_than_any_layer_is_refused(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=here)
        here, above = os.open("d", os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(here)
    with pytest.raises(ImageError, match="more than 256 directories deep"):
        diff_layer(HostPath(str(tmp_path)))


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"directory {tmp_path}/none: no such file or directory"):
        diff_layer(HostPath(f"{tmp_path}/none"))


def test_owners_are_shifted_back_into_the_guest(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / "f").write_text("x")
    os.chown(upper, 100_000, 200_000)
    os.chown(upper / "f", 100_007, 200_008)
    ids = UserMap(uids=(IdRange(guest=0, host=100_000, size=10),), gids=(IdRange(guest=0, host=200_000, size=65_536),))
    out = io.BytesIO()
    diff_layer(HostPath(str(upper)), out, user_map=ids)
    layer = tmp_path / "layer"
    apply_layer(io.BytesIO(out.getvalue()), HostPath(str(layer)))
    found = (layer / "f").stat()
    assert (found.st_uid, found.st_gid) == (7, 8)
    os.chown(upper / "f", 100_010, 200_000)
    with pytest.raises(ImageError, match="owner 100010 is not in the container's id map"):
        diff_layer(HostPath(str(upper)), user_map=ids)


def test_a_chain_mounted_by_the_kernel_shows_what_the_layers_say(tmp_path: Path) -> None:
    """The overlay form is right if overlayfs agrees."""
    need_tool("unshare")
    low = apply(
        tmp_path / "low",
        member("a/old", content=b"1"),
        member("a/keep", content=b"2"),
        member("b/x"),
        member("c", content=b"f"),
    )
    high = apply(
        tmp_path / "high", member("a/.wh.old"), member("b/.wh..wh..opq"), member("b/y"), member(".wh.c"), member("c/d"),
        parents=[str(low)],
    )  # fmt: skip
    target = tmp_path / "target"
    target.mkdir()
    mount = f"mount -t overlay overlay -o ro,lowerdir={high}:{low} {target} && cd {target} && find . | sort"
    done = subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [".", "./a", "./a/keep", "./b", "./b/y", "./c", "./c/d"]
    shutil.rmtree(target)

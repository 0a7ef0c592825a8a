"""Images made by other people's tools are loaded here, and layers made here are read by them."""

from __future__ import annotations

import io
import os
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plugengine.images.layers.diff import diff_layer
from plugengine.images.store import ImageStore
from plugengine.model import HostPath
from tests.conftest import need_tool
from tests.system.images import archives as a
from tests.system.images.conftest import describe


@dataclass
class Buildah:
    """buildah with storage of its own; nothing is fetched from anywhere."""

    home: Path

    def __call__(self, *args: Any) -> str:
        flags: list[Any] = ["--storage-driver", "vfs", "--root", self.home / "root", "--runroot", self.home / "run"]
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [need_tool("buildah"), *flags, *args], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Buildah:
    """A buildah that holds the image `two`: a tree, and a second layer that changes it."""
    need_tool("buildah")
    made = Buildah(tmp_path_factory.mktemp("buildah"))
    one = made("from", "scratch")
    root = Path(made("mount", one))
    fill(root)
    made("umount", one)
    made(
        "config", "--cmd", "/bin/sh", "--env", "FOO=bar", "--user", "nobody", "--port", "80", "--workingdir", "/d", one
    )
    made("commit", "-q", one, "localhost/one")
    two = made("from", "localhost/one")
    root = Path(made("mount", two))
    change(root)
    made("umount", two)
    made("commit", "-q", two, "localhost/two")
    made("rm", "-a")
    return made


def fill(root: Path) -> None:
    for name in ("etc", "bin", "d/sub"):
        (root / name).mkdir(parents=True)
    (root / "etc/motd").write_text("hi")
    (root / "bin/su").write_text("su")
    (root / "bin/su").chmod(0o4755)
    os.link(root / "etc/motd", root / "d/hard")
    (root / "d/sym").symlink_to("../etc/motd")
    os.mkfifo(root / "d/pipe")
    os.mknod(root / "d/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.setxattr(root / "d/sub", "user.mark", b"\0x")
    (root / ("n" * 200)).write_text("long")
    os.chown(root / "d", 1000, 2000)
    (root / "tmp").mkdir(mode=0o700)
    (root / "tmp").chmod(0o1777)


def change(root: Path) -> None:
    (root / "d/sym").unlink()
    (root / "new").write_text("new")
    (root / "tmp/x").write_text("x")
    for name in ("sub", "hard"):
        (root / "d" / name).rename(root / "d" / f"{name}-moved")


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_an_image_written_by_buildah_is_loaded(store: ImageStore, tmp_path: Path, buildah: Buildah, form: str) -> None:
    buildah("push", "-q", "localhost/two", f"{form}:{tmp_path}/two.tar:two:v2")
    image = next(one for one in store.load(str(tmp_path / "two.tar")) if "two:v2" in one.names)
    config = image.config
    assert (config.cmd, config.env, config.user) == (("/bin/sh",), ("FOO=bar",), "nobody")
    assert (config.working_dir, config.exposed_ports) == ("/d", ("80/tcp",))
    merged = mounted(image.layers, tmp_path)
    container = buildah("from", "localhost/two")
    try:
        expected = describe(buildah("mount", container))
    finally:
        buildah("rm", container)
    assert merged.keys() == expected.keys()
    for name, entry in expected.items():
        if name == ".":
            continue  # in no tar of buildah's, which gives its own roots mode 0555
        # Its layers keep whole seconds, and no mark of which names are one file across layers.
        for part in ("type", "mode", "owner", "content"):
            assert merged[name][part] == entry[part], (name, part)
    assert merged["d/sub-moved"]["xattrs"].get("user.mark") == b"\0x"


def mounted(layers: tuple[HostPath, ...], work: Path) -> dict[str, Any]:
    """Return the tree that overlayfs makes of a chain."""
    target = work / "merged"
    target.mkdir()
    subprocess.run(
        ["mount", "-t", "overlay", "-o", f"ro,lowerdir={':'.join(reversed(layers))}", "none", target], check=True
    )
    try:
        return describe(target)
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_an_image_converted_by_skopeo_is_loaded(
    store: ImageStore, tmp_path: Path, buildah: Buildah, compression: str
) -> None:
    buildah("push", "-q", "localhost/two", f"oci:{tmp_path}/layout:two:v2")
    copy = [need_tool("skopeo"), "copy", "-q", "--dest-compress", "--dest-compress-format", compression]
    subprocess.run([*copy, f"oci:{tmp_path}/layout:two:v2", f"oci:{tmp_path}/packed:two:v2"], check=True)
    [direct], [packed] = store.load(str(tmp_path / "layout")), store.load(str(tmp_path / "packed"))
    assert direct.id == packed.id
    assert direct.names == packed.names == ("two:v2",)
    assert store.check() == []


def test_layers_written_here_are_unpacked_the_same_by_umoci(store: ImageStore, tmp_path: Path) -> None:
    umoci = need_tool("umoci")
    low, high = tmp_path / "low", tmp_path / "high"
    low.mkdir()
    fill(low)
    (high / "d").mkdir(parents=True)
    os.mknod(high / "d/sym", stat.S_IFCHR, 0)
    (high / "etc").mkdir()
    os.setxattr(high / "etc", "trusted.overlay.opaque", b"y")
    (high / "etc/new").write_text("new")
    layers = []
    for directory in (low, high):
        out = io.BytesIO()
        diff_layer(HostPath(str(directory)), out)
        layers.append(out.getvalue())
    parts = a.oci_parts(*layers, name="x")
    for name, content in parts.items():
        (tmp_path / "layout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "layout" / name).write_bytes(content)
    subprocess.run(
        [umoci, "unpack", "--image", f"{tmp_path}/layout:x", tmp_path / "bundle"], check=True, capture_output=True
    )
    [image] = store.load(str(tmp_path / "layout"))
    ours, theirs = mounted(image.layers, tmp_path), describe(tmp_path / "bundle/rootfs")
    assert ours.keys() == theirs.keys()
    for name, entry in theirs.items():
        for part in ("type", "mode", "owner", "content", "first"):
            assert ours[name][part] == entry[part], (name, part)


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_a_root_filesystem_packed_by_gnu_tar_is_imported(store: ImageStore, tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    fill(source)
    if form in ("v7", "ustar"):  # names of 200 bytes without a slash do not fit; v7 knows no special files
        os.unlink(source / ("n" * 200))
    if form == "v7":
        os.unlink(source / "d/pipe")
        os.unlink(source / "d/null")
    flags = ["--xattrs", "--xattrs-include=*"] if form == "pax" else []
    pack: list[Any] = ["tar", "--sort=name", f"--format={form}", "-czf", tmp_path / "x.tgz", *flags, "-C", source, "."]
    subprocess.run(pack, check=True)
    image = store.import_rootfs(str(tmp_path / "x.tgz"), "x")
    ours, expected = describe(image.layers[0]), describe(source)
    assert ours.keys() == expected.keys()
    parts = {"type", "mode", "owner", "content", "first"} | ({"xattrs", "mtime_ns"} if form == "pax" else set())
    for name, entry in expected.items():
        for part in parts:
            assert ours[name][part] == entry[part], (name, part)

"""Random trees written as layers and applied again: equal, with the same digest, and understood by GNU tar."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from plugengine.images.layers.apply import apply_layer
from plugengine.images.layers.diff import diff_layer
from plugengine.model import HostPath
from plugengine.trees.whiteouts import OPAQUE
from tests.conftest import need_tool
from tests.system.images.conftest import describe

NAMES = st.one_of(
    st.sampled_from(["a", "b", "c", "dir", "ü", "n" * 255, "x" * 130, "\udcff\udc80", "new\nline", "trailing "]),
    st.text("abc .-_é", min_size=1, max_size=6).filter(
        lambda name: name not in {".", ".."} and not name.startswith(".wh.")
    ),
)
ATTRIBUTES = st.fixed_dictionaries(
    {
        "mode": st.integers(0, 0o7777),
        "uid": st.sampled_from([0, 1, 65_534, 4_000_000_000]),
        "gid": st.sampled_from([0, 5, 3_000_000]),
        "mtime_ns": st.one_of(st.integers(10**18, 10**19 // 2), st.integers(-(10**17), 10**17)),
        "xattr": st.one_of(st.none(), st.binary(max_size=40)),
    }
)
KINDS = st.one_of(
    st.tuples(st.just("directory"), st.booleans()),
    st.tuples(st.just("file"), st.binary(max_size=3000)),
    st.tuples(st.just("symlink"), NAMES),
    st.tuples(st.just("fifo"), st.none()),
    st.tuples(st.just("device"), st.sampled_from([(1, 3), (259, 1_000_000 % 0xFFFFF)])),
    st.tuples(st.just("whiteout"), st.none()),
    st.tuples(st.just("link"), st.integers(0, 100)),
)
TREES = st.lists(st.tuples(st.integers(0, 100), NAMES, KINDS, ATTRIBUTES), max_size=14)


def build(root: Path, tree: list[Any]) -> None:
    """Make a tree in overlay form; entries that do not fit (a name twice) are left out."""
    root.mkdir()
    directories, files = [root], list[Path]()
    attributes: dict[Path, Any] = {}
    for where, name, (kind, value), wanted in tree:
        path = directories[where % len(directories)] / name
        if os.path.lexists(path):
            continue
        if kind == "directory":
            path.mkdir()
            directories.append(path)
            if value:
                os.setxattr(path, OPAQUE, b"y")
        elif kind == "file":
            path.write_bytes(value)
        elif kind == "symlink":
            os.symlink(value, path)
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            os.mknod(path, stat.S_IFBLK, os.makedev(*value))
        elif kind == "whiteout":
            os.mknod(path, stat.S_IFCHR, 0)
            continue
        elif files:
            os.link(files[value % len(files)], path, follow_symlinks=False)
            continue
        else:
            continue
        if kind != "directory":
            files.append(path)
        attributes[path] = wanted
    for path in reversed(attributes):
        dress(path, attributes[path])
    os.utime(root, ns=(1, 1))


def dress(path: Path, wanted: dict[str, Any]) -> None:
    os.chown(path, wanted["uid"], wanted["gid"], follow_symlinks=False)
    if not path.is_symlink():
        os.chmod(path, wanted["mode"])
    if wanted["xattr"] is not None and (path.is_dir() or path.is_file()) and not path.is_symlink():
        os.setxattr(path, "user.x", wanted["xattr"])
    os.utime(path, ns=(0, wanted["mtime_ns"]), follow_symlinks=False)


@settings(max_examples=60)
@given(TREES)
def test_any_tree_written_and_applied_is_equal_and_has_the_same_digest(tree: list[Any]) -> None:
    with tempfile.TemporaryDirectory(prefix="pe-layer-") as name:
        base = Path(name)
        build(base / "one", tree)
        out = io.BytesIO()
        diff_id, _ = diff_layer(HostPath(str(base / "one")), out)
        applied, _ = apply_layer(io.BytesIO(out.getvalue()), HostPath(str(base / "two")))
        assert applied == diff_id
        assert describe(base / "two") == describe(base / "one")
        assert diff_layer(HostPath(str(base / "two")))[0] == diff_id


@settings(max_examples=25)
@given(TREES)
def test_gnu_tar_reads_what_is_written_and_its_tars_are_read(tree: list[Any]) -> None:
    # A whiteout is no file, and GNU tar forgets that two names of a FIFO or device are one.
    tree = [entry for entry in tree if entry[2][0] not in {"whiteout", "fifo", "device"}]
    with tempfile.TemporaryDirectory(prefix="pe-layer-") as name:
        base = Path(name)
        build(base / "one", tree)
        for path in (base / "one").rglob("*"):
            if path.is_dir() and not path.is_symlink() and OPAQUE in os.listxattr(path):
                os.removexattr(path, OPAQUE)
        before = describe(base / "one")
        out = io.BytesIO()
        diff_layer(HostPath(str(base / "one")), out)
        (base / "two").mkdir()
        flags = ["--xattrs", "--xattrs-include=user.*", "--numeric-owner", "-C"]
        extract: list[Any] = [need_tool("tar"), "-xpf", "-", "--warning=no-timestamp", *flags, base / "two"]
        subprocess.run(extract, input=out.getvalue(), check=True)
        assert describe(base / "two") == before
        packed = subprocess.run(
            ["tar", "-cf", "-", "--format=pax", *flags, base / "one", "."], check=True, capture_output=True
        ).stdout
        apply_layer(io.BytesIO(packed), HostPath(str(base / "three")))
        assert describe(base / "three") == before

"""Filesystems in files, chains of layers on them, and what trees look like; for drivers that depend on such things."""

from __future__ import annotations

import importlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from plugengine.images.layers.diff import diff_layer
from plugengine.kernel.extents import FIEMAP_EXTENT_DATA_INLINE, FIEMAP_EXTENT_SHARED, fiemap
from plugengine.model import DriverInfo, HostPath, StorageRequest, UserMap
from plugengine.testing.case_directory import loop_filesystem
from tests.conftest import Pe, need_root, need_tool
from tests.drivers.options import values
from tests.system.images.archives import oci_parts, pack
from tests.unit.images.tars import make_tar, member

# XFS is a second opinion where its tools are; btrfs everywhere.
SHARING = ["btrfs", *(["xfs"] if shutil.which("mkfs.xfs") else [])]
# A file with CAP_NET_RAW, permitted and effective; struct vfs_cap_data of include/uapi/linux/capability.h, version 2.
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@contextmanager
def mounted(kind: str, base: Path, *, size: int = 1 << 30) -> Iterator[Path]:
    """Give the root of a new filesystem; unmounting it proves that nothing is left that uses it."""
    need_root()
    need_tool(f"mkfs.{kind}")
    image, point = base / f"{kind}.image", base / kind
    point.mkdir()
    # btrfs takes removed subvolumes apart when it has committed, every half minute otherwise.
    options = ["-o", "commit=1"] if kind == "btrfs" else []
    with loop_filesystem(kind, HostPath(str(image)), size) as device:
        subprocess.run(["mount", *options, device, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)
        image.unlink()


def used(point: Path) -> int:
    """Return the bytes in use on a filesystem, once all is written out."""
    subprocess.run(["sync", "-f", point], check=True)
    found = os.statvfs(point)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def subvolumes(point: Path) -> list[str]:
    """Return the paths of all subvolumes of a btrfs."""
    done = subprocess.run(["btrfs", "subvolume", "list", point], check=True, capture_output=True, text=True)
    return [line.split(" path ", 1)[1] for line in done.stdout.splitlines()]


def info_of(name: str) -> DriverInfo:
    """Return what a bundled storage driver says of itself."""
    found: DriverInfo = importlib.import_module(f"plugengine_{name}").pe_storage_info()
    return found


class Store:
    """A layer store and containers on it, below one directory."""

    def __init__(self, base: Path, driver: str) -> None:
        self.base = base
        self.driver = driver
        (base / "layers").mkdir(parents=True)
        os.chmod(base, 0o755)

    def layer(self, name: str, files: Mapping[str, str] | None = None) -> HostPath:
        """Make a layer with these files."""
        path = self.base / "layers" / name
        path.mkdir()
        for file, text in (files or {}).items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_text(text)
        return HostPath(str(path))

    def request(
        self,
        *chain: HostPath,
        name: str = "c1",
        options: Mapping[str, str] | None = None,
        user_map: UserMap | None = None,
        read_only: bool = False,
    ) -> StorageRequest:
        """Return the request of one container, whose directories exist as the core makes them."""
        directory, target = self.base / "containers" / name / self.driver, self.base / "run" / name
        directory.mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        return StorageRequest(
            container_id=name,
            chain=chain,
            directory=HostPath(str(directory)),
            target=HostPath(str(target)),
            shared=HostPath(str(self.base / "storage" / self.driver)),
            options=values(info_of(self.driver), options),
            user_map=user_map,
            read_only=read_only,
        )


def whiteout(path: Path) -> None:
    """Say that a name is deleted, in overlay form."""
    os.mknod(path, stat.S_IFCHR)


def make_opaque(path: Path) -> None:
    """Say that a directory hides what lies below."""
    os.setxattr(path, "trusted.overlay.opaque", b"y")


def rich_chain(store: Store, *, count: int = 20) -> tuple[HostPath, ...]:
    """Make layers of everything a layer can hold, and of every way to change it by another above."""
    low = Path(store.layer("low", {"plain": "plain", "gone": "x", "d/kept": "k", "d/hidden": "h", "d/deep/er": "e"}))
    (low / "big").write_bytes(os.urandom(3 << 20))
    with (low / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(1 << 30)
        file.write(b"end")
    (low / "setuid").write_text("#!/bin/sh\n")
    os.chown(low / "setuid", 1000, 1001)
    os.chmod(low / "setuid", 0o6755)
    (low / "capable").write_text("x")
    os.setxattr(low / "capable", "security.capability", CAPABILITY)
    os.setxattr(low / "plain", "user.colour", b"green")
    os.link(low / "plain", low / "d/other-name")
    os.link(low / "plain", low / "third-name")
    os.symlink("d/kept", low / "link")
    os.lchown(low / "link", 5, 6)
    os.mkfifo(low / "pipe", 0o640)
    os.mknod(low / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(low / "block", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    for name in ("was-file", "turned/into/file", "turned/again"):
        (low / name).parent.mkdir(parents=True, exist_ok=True)
        (low / name).write_text("low")
    (low / "sticky").mkdir()
    os.chmod(low / "sticky", 0o1777)
    (low / b"not \xff utf-8".decode("utf-8", "surrogateescape")).write_text("name")
    high = Path(store.layer("high", {"plain": "changed", "d/new": "n", "was-file/is": "directory"}))
    whiteout(high / "gone")
    whiteout(high / "never-was")
    (high / "d/deep").mkdir()
    make_opaque(high / "d/deep")
    (high / "d/deep/only").write_text("only")
    whiteout(high / "d/hidden")
    (high / "turned").write_text("a file now")
    os.utime(high / "d", ns=(1_000_000_001, 2_000_000_002))
    chain = [HostPath(str(low)), HostPath(str(high))]
    for number in range(count - 2):
        layer = store.layer(f"m{number}", {f"n{number}/f": str(number), "counter": str(number)})
        if number % 3 == 2:
            whiteout(Path(layer, f"n{number - 1}"))
        chain.append(layer)
    os.chmod(chain[-1], 0o711)
    os.utime(chain[-1], ns=(3_000_000_003, 4_000_000_004))
    return tuple(chain)


@dataclass
class Tree:
    """What a tree looks like: path to what an entry is; and which paths are names of one file."""

    entries: dict[str, tuple[object, ...]] = field(default_factory=dict)
    links: dict[tuple[int, int], list[str]] = field(default_factory=dict)

    @property
    def groups(self) -> set[tuple[str, ...]]:
        """The paths that are names of one file."""
        return {tuple(sorted(paths)) for paths in self.links.values() if len(paths) > 1}


def look(root: str | Path) -> Tree:
    """Return what a tree looks like."""
    tree = Tree()
    for directory, names, files in os.walk(root):
        for name in (".", *names, *files) if directory == str(root) else (*names, *files):
            path = os.path.normpath(f"{directory}/{name}")
            found = os.lstat(path)
            here = os.path.relpath(path, root)
            tree.entries[here] = (
                oct(found.st_mode),
                found.st_uid,
                found.st_gid,
                found.st_rdev,
                found.st_mtime_ns,
                _content(path, found),
                _attributes(path),
            )
            if not stat.S_ISDIR(found.st_mode):
                tree.links.setdefault((found.st_dev, found.st_ino), []).append(here)
    return tree


def _content(path: str, found: os.stat_result) -> object:
    if stat.S_ISLNK(found.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(found.st_mode):
        return None
    if found.st_size > 1 << 28:  # the sparse one
        with open(path, "rb") as file:
            begin = file.read(5)
            file.seek(-3, os.SEEK_END)
            return found.st_size, begin, file.read()
    return Path(path).read_bytes()


def _attributes(path: str) -> tuple[tuple[str, bytes], ...]:
    return tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in sorted(os.listxattr(path, follow_symlinks=False))
        if not name.startswith("trusted.overlay.")
    )


def is_shared(path: Path) -> bool:
    """Tell whether all data of a file is shared with another; what lies in metadata has none."""
    fd = os.open(path, os.O_RDONLY)
    try:
        extents = [extent for extent in fiemap(fd, sync=True) if not extent.flags & FIEMAP_EXTENT_DATA_INLINE]
        return all(extent.flags & FIEMAP_EXTENT_SHARED for extent in extents)
    finally:
        os.close(fd)


class ColdPe(Pe):
    """The real `pe` without a prepared process, which would keep a filesystem busy."""

    @property
    def environ(self) -> dict[str, str]:
        """Return the environment that selects the roots."""
        return {**super().environ, "PLUGENGINE_WARM": "0"}


@contextmanager
def engine_on(point: Path, run_root: Path) -> Iterator[Pe]:
    """Give a `pe` whose root is on a filesystem; afterwards nothing of it is left there."""
    pe = ColdPe(point / "root", run_root)
    try:
        yield pe
    finally:
        pe.clean()
        pe("system", "reset", "--force", check=True)
        assert not (point / "root").exists()


def load_layered(pe: Pe, name: str, base: Path) -> None:
    """Load an image of twenty layers: this machine's shell and tools, and what others change about them."""
    pe("run", "--rm", "--net", "none", "host:base", "true", check=True)
    (directory,) = [path for path in (pe.root / "layers").iterdir() if path.is_dir()]
    bottom = BytesIO()
    diff_layer(HostPath(str(directory)), bottom)
    layers = [
        bottom.getvalue(),
        make_tar([member("etc/motd", content=b"low\n"), member("opaque/gone", content=b"x"), member("gone")]),
        make_tar([member("opaque/.wh..wh..opq"), member("opaque/here", content=b"y"), member(".wh.gone")]),
        *(make_tar([member("etc/motd", content=b"%d\n" % number), member(f"n{number}")]) for number in range(17)),
    ]
    archive = base / "layered.tar"
    archive.write_bytes(pack(oci_parts(*layers, name=name)))
    pe("load", "-i", str(archive), check=True)

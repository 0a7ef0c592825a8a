"""Workloads on names and attributes, and the copying of files that came with the image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar, Final

from plugengine.bench.workload import GUEST, Inside
from plugengine.bench.workloads.content import FILES_PER_DIRECTORY, MIB, write_noise, write_tree
from plugengine.model import HostPath

_GROUP: Final = "metadata"
_COPY: Final = "copy-up"


class _Metadata(Inside):
    """A function of the script for names and attributes."""

    script = f"{GUEST}/metadata.py"
    group = _GROUP


class _Tree(_Metadata):
    """Uses the tree of small files."""

    area = "tree"
    full: ClassVar[Mapping[str, int]] = {"files": 3_000, "passes": 10}
    quick: ClassVar[Mapping[str, int]] = {"files": 1_000, "passes": 3}

    def build(self, directory: HostPath, sizes: Mapping[str, int]) -> None:
        """Write small files, so many in a directory."""
        write_tree(directory, sizes["files"])


class WalkCold(_Tree):
    """find(1) in a container that has just started."""

    name = "walk-cold"
    title = "walk a tree, cold"
    sentence = f"list and stat {{files:,}} files in directories of {FILES_PER_DIRECTORY}, for the first time"
    cold = True
    function = "walk_once"


class WalkWarm(_Tree):
    """find(1) for the second time."""

    name = "walk-warm"
    title = "walk a tree, warm"
    sentence = f"list and stat {{files:,}} files in directories of {FILES_PER_DIRECTORY}; mean of {{passes}} passes"
    function = "walk_again"


class ReadSmallCold(_Tree):
    """What a program that loads many small files does first."""

    name = "read-small-cold"
    title = "read small files, cold"
    sentence = "list, open, read and close {files:,} files of 4 KiB, for the first time"
    cold = True
    function = "read_once"


class ReadSmallWarm(_Tree):
    """Opening and reading what is in memory."""

    name = "read-small-warm"
    title = "read small files, warm"
    sentence = "open, read and close {files:,} files of 4 KiB; mean of {passes} passes"
    function = "read_again"


class Absent(_Metadata):
    """Looking for what is not there, along a search path."""

    name = "absent"
    title = "names that are absent"
    sentence = "access(2) of {names:,} names that are in none of {directories} directories; mean of {passes} passes"
    area = "absent"
    function = "probe_absent"
    full: ClassVar[Mapping[str, int]] = {"names": 200, "directories": 30, "passes": 20}
    quick: ClassVar[Mapping[str, int]] = {"names": 100, "directories": 20, "passes": 5}

    def build(self, directory: HostPath, sizes: Mapping[str, int]) -> None:
        """Make directories with one file each."""
        for number in range(sizes["directories"]):
            os.mkdir(f"{directory}/path{number}")
            with open(f"{directory}/path{number}/present.py", "wb"):
                pass


class Create(_Metadata):
    """The life of temporary files."""

    name = "create"
    title = "create, stat, unlink"
    sentence = "make {files:,} files of 4 KiB in one directory, stat them, remove them"
    function = "create"
    full: ClassVar[Mapping[str, int]] = {"files": 1_500}
    quick: ClassVar[Mapping[str, int]] = {"files": 300}


class Rename(_Metadata):
    """A storm of renames between two directories."""

    name = "rename"
    title = "rename storm"
    sentence = "rename {files:,} new files four times, to and fro between two directories"
    function = "rename"
    full: ClassVar[Mapping[str, int]] = {"files": 800}
    quick: ClassVar[Mapping[str, int]] = {"files": 150}


class HardLinks(_Metadata):
    """Many names for one file."""

    name = "hard-links"
    title = "hard links"
    sentence = "give a new file {links:,} more names, and remove them"
    function = "link"
    full: ClassVar[Mapping[str, int]] = {"links": 2_000}
    quick: ClassVar[Mapping[str, int]] = {"links": 300}


class Xattrs(_Metadata):
    """Extended attributes of new files."""

    name = "xattrs"
    title = "extended attributes"
    sentence = "set, list, read and remove an extended attribute of {files:,} new files"
    function = "xattrs"
    full: ClassVar[Mapping[str, int]] = {"files": 1_500}
    quick: ClassVar[Mapping[str, int]] = {"files": 300}


class RemoveTree(_Metadata):
    """rm -r of what came with the image."""

    name = "remove-tree"
    title = "rm -r"
    sentence = f"remove a tree of {{files:,}} files of the image, in directories of {FILES_PER_DIRECTORY}"
    area = "removed"
    changes = True
    function = "remove_tree"
    full: ClassVar[Mapping[str, int]] = {"files": 1_500}
    quick: ClassVar[Mapping[str, int]] = {"files": 400}

    def build(self, directory: HostPath, sizes: Mapping[str, int]) -> None:
        """Write small files."""
        write_tree(HostPath(f"{directory}/tree"), sizes["files"])


class CopyUpSmall(_Metadata):
    """First write to each of many small files of the image."""

    name = "copy-up-small"
    title = "first write, small files"
    sentence = "append a byte to each of {files:,} files of 4 KiB of the image"
    group = _COPY
    area = "copied-small"
    changes = True
    function = "copy_up_small"
    full: ClassVar[Mapping[str, int]] = {"files": 500}
    quick: ClassVar[Mapping[str, int]] = {"files": 100}

    def build(self, directory: HostPath, sizes: Mapping[str, int]) -> None:
        """Write small files in one directory."""
        write_tree(HostPath(f"{directory}/small"), sizes["files"], flat=True)


class CopyUpLarge(_Metadata):
    """First write to a large file of the image."""

    name = "copy-up-large"
    title = "first write, large file"
    sentence = "append a byte to a file of {mebibytes} MiB of the image"
    group = _COPY
    area = "copied-large"
    changes = True
    function = "copy_up_large"
    full: ClassVar[Mapping[str, int]] = {"mebibytes": 64}
    quick: ClassVar[Mapping[str, int]] = {"mebibytes": 16}

    def build(self, directory: HostPath, sizes: Mapping[str, int]) -> None:
        """Write the file."""
        write_noise(HostPath(f"{directory}/large"), sizes["mebibytes"] * MIB)

"""Workloads on content: throughput, mappings, and the wait for the disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from plugengine.bench.results import HIGHER
from plugengine.bench.workload import GUEST, Inside
from plugengine.bench.workloads.content import MIB, write_noise
from plugengine.bench.workloads.fio import WithFio
from plugengine.model import HostPath

_GROUP: Final = "data"
_BYTES: Final = "B/s"
_CALLS: Final = "1/s"


class _Data(Inside):
    """A function of the script for content."""

    script = f"{GUEST}/data.py"
    group = _GROUP


class DataFile(_Data):
    """Uses the file of data."""

    area = "data"
    better = HIGHER
    unit = _BYTES
    full: ClassVar[Mapping[str, int]] = {"mebibytes": 64, "passes": 16, "reads": 100_000}
    quick: ClassVar[Mapping[str, int]] = {"mebibytes": 32, "passes": 6, "reads": 20_000}

    def build(self, directory: HostPath, sizes: Mapping[str, int]) -> None:
        """Write the file."""
        write_noise(HostPath(f"{directory}/data"), sizes["mebibytes"] * MIB)


class ReadCold(DataFile):
    """The first read of a file of the image."""

    name = "read-cold"
    title = "read in order, cold"
    sentence = "read a file of {mebibytes} MiB in pieces of 1 MiB, from the disk"
    cold = True
    function = "read_cold"


class Read(WithFio, DataFile):
    """Reading what is in memory."""

    name = "read"
    title = "read in order"
    sentence = "read a file of {mebibytes} MiB in pieces of 1 MiB, from memory; {passes} passes"
    function = "read_in_order"
    job = ("--rw=read", "--filename={file}", "--readonly", "--bs=1M", "--loops={passes}")


class RandomRead(WithFio, DataFile):
    """Blocks in an order without sense, from memory."""

    name = "random-read"
    title = "read at random"
    sentence = "{reads:,} reads of 4 KiB at random places of a file of {mebibytes} MiB, from memory"
    unit = _CALLS
    function = "read_at_random"
    job = ("--rw=randread", "--filename={file}", "--readonly", "--bs=4k", "--norandommap", "--number_ios={reads}")


class MmapRead(DataFile):
    """Page faults on a file of the image."""

    name = "mmap-read"
    title = "read through a mapping"
    sentence = "map a file of {mebibytes} MiB, touch every page, unmap; {passes} passes"
    function = "read_mapped"


class Write(WithFio, _Data):
    """A new file, into memory."""

    name = "write"
    title = "write in order"
    sentence = "write a new file of {mebibytes} MiB in pieces of 1 MiB, without waiting for the disk"
    better = HIGHER
    unit = _BYTES
    function = "write_in_order"
    writes = True
    job = ("--rw=write", "--filename={file}", "--bs=1M", "--size={mebibytes}M", "--fallocate=none", "--unlink=1")
    full: ClassVar[Mapping[str, int]] = {"mebibytes": 128}
    quick: ClassVar[Mapping[str, int]] = {"mebibytes": 32}


class RandomWrite(WithFio, _Data):
    """Overwriting blocks of a new file."""

    name = "random-write"
    title = "write at random"
    sentence = "{writes:,} writes of 4 KiB at random places of a new file of {mebibytes} MiB, without waiting"
    better = HIGHER
    unit = _CALLS
    function = "write_at_random"
    writes = True
    job = (
        *("--rw=randwrite", "--filename={file}", "--bs=4k", "--size={mebibytes}M", "--overwrite=1", "--norandommap"),
        *("--number_ios={writes}", "--fallocate=none", "--unlink=1"),
    )
    full: ClassVar[Mapping[str, int]] = {"mebibytes": 64, "writes": 60_000}
    quick: ClassVar[Mapping[str, int]] = {"mebibytes": 32, "writes": 10_000}


class Fsync(_Data):
    """A log that must survive a power cut."""

    name = "fsync"
    title = "fsync"
    sentence = "append 4 KiB to a new file and wait for the disk; mean of {calls}"
    function = "fsync"
    full: ClassVar[Mapping[str, int]] = {"calls": 200}
    quick: ClassVar[Mapping[str, int]] = {"calls": 20}

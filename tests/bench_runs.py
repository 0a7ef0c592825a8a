"""A run of `pe bench` that was never measured, the same every time: for whatever shows or compares runs."""

from __future__ import annotations

import random

from plugengine.bench.results import HIGHER, LOWER, Cell, Column, Machine, Run, Workload

ROUNDS = 10
HOSTILE = "</script><script>alert(1)</script> \"quoted\" & 'single' \u202eright to left\u202c עברית <!-- \x00\x1b[31m"

COLUMNS = (
    Column(name="plain directory", limit=True),
    Column(name="overlay", version="0.1.0", distribution="plugengine", options={"metacopy": "on"}),
    Column(name="fuse_union", version="0.1.0", distribution="plugengine", options={"threads": "4"}),
    Column(name="vfs", version="0.1.0", distribution="plugengine"),
    Column(name="btrfs", version="0.1.0", distribution="plugengine", reason="/var/lib/plugengine is ext4, not btrfs"),
    Column(name="fuse-overlayfs", version="1.13-1", distribution="plugengine-fuse-overlayfs"),
)
# What a driver takes compared with the plain directory, and how much the group matters to it.
_SLOWNESS = {"plain directory": 1.0, "overlay": 1.15, "fuse_union": 1.6, "vfs": 1.02, "fuse-overlayfs": 4.1}

_WORKLOADS = (
    ("life cycle", "unpack", "Unpack a layer", "A layer of 5,000 files, 120 MiB", "s", 1.4),
    ("life cycle", "prepare", "Prepare a container's filesystem", "On an image of 20 layers", "s", 0.004),
    ("life cycle", "mount-1", "Mount, 1 layer", "Mount and unmount", "s", 0.00021),
    ("life cycle", "mount-20", "Mount, 20 layers", "Mount and unmount", "s", 0.00062),
    ("life cycle", "mount-120", "Mount, 120 layers", "Mount and unmount", "s", 0.0031),
    ("life cycle", "commit", "Commit of 500 changed files", "Diff and store as a layer", "s", 0.18),
    ("metadata", "walk-cold", "Metadata walk, cold", "lstat of 20,000 files", "s", 0.81),
    ("metadata", "walk-warm", "Metadata walk, warm", "lstat of 20,000 files, the second time", "s", 0.062),
    ("metadata", "enoent", "Probe for absent names", "20,000 names that do not exist", "s", 0.031),
    ("metadata", "create", "Create, stat and unlink small files", "5,000 files of 1 KiB", "s", 0.21),
    ("metadata", "rename", "Rename storm", "5,000 renames in one directory", "s", 0.09),
    ("metadata", "hard-links", "Hard links", "2,000 links to one file", "s", 0.034),
    ("metadata", "xattrs", "Extended attributes", "Set, get, list and remove 2,000", "s", 0.052),
    ("metadata", "remove", "Remove a tree (rm -r) of twenty thousand files and directories", "20,000 files", "s", 0.33),
    ("data", "read-small", "Open and read small files, cold", "5,000 files of 4 KiB", "s", 0.52),
    ("data", "copy-up", "Copy-up, one large file", "1 byte written to a file of 256 MiB", "s", 0.19),
    ("data", "sequential-read", "Sequential read", "1 GiB in blocks of 1 MiB", "B/s", 2.1e9),
    ("data", "sequential-write", "Sequential write", "1 GiB in blocks of 1 MiB", "B/s", 0.7e9),
    ("data", "random-read", "Random read", "4 KiB blocks, 30 s", "1/s", 41000.0),
    ("data", "fsync", "fsync latency", "500 times 4 KiB and fsync", "s", 0.0011),
    ("memory", "mount-memory", "Memory per mount", "100 mounts of one image", "B", 120_000.0),
    ("real work", "source-tree", "Unpack a source tree", "tar xf of 30,000 files", "s", 2.9),
    ("real work", "compileall", "python -m compileall", "The standard library", "s", 11.2),
    ("real work", "sqlite", "SQLite transactions", "1,000 transactions, synchronous=full", "s", 1.7),
    ("real work", "install", "Install of a package with its dependencies", "dpkg -i of 40 packages", "s", 8.4),
)


def bench_run(*, seed: int = 7, columns: tuple[Column, ...] = COLUMNS) -> Run:
    """Return a run with a limit, a driver that is not supported, failures, noise, and no difference here and there."""
    generator = random.Random(seed)
    workloads = tuple(_workload(*row[:5]) for row in _WORKLOADS)
    cells = [
        _cell(generator, workload, column, row[5])
        for workload, row in zip(workloads, _WORKLOADS, strict=True)
        for column in columns
    ]
    return Run(
        kind="storage",
        started="2026-11-24T03:00:12Z",
        duration_s=1693.4,
        seed=seed,
        rounds=ROUNDS,
        warmup=1,
        baseline="overlay",
        command=(
            "pe",
            "bench",
            "storage",
            "--drivers",
            "overlay,fuse_union,vfs",
            "--seed",
            str(seed),
            "--html",
            "a b.html",
        ),
        place="container",
        machine=Machine(
            host="bench-1",
            kernel="6.12.9-cloud-amd64",
            cpu="AMD EPYC 7763 64-Core Processor",
            cores=2,
            memory_bytes=8 * 1024**3,
            filesystem="ext4 (rw,relatime,data=ordered)",
            directory="/var/lib/plugengine",
            python="3.11.2",
            plugengine="0.1.0",
            virtual="kvm",
            load_before=0.12,
            load_after=1.98,
            steal_percent=2.4,
        ),
        columns=columns,
        workloads=workloads,
        cells=tuple(cells),
        image="host:base",
        warnings=("2.4 % of processor time was stolen by the hypervisor: differences below that are noise",),
    )


def _workload(group: str, name: str, title: str, sentence: str, unit: str) -> Workload:
    return Workload(
        name=name,
        title=title,
        sentence=sentence,
        group=group,
        unit=unit,
        better=HIGHER if unit in ("B/s", "1/s") else LOWER,
        cold="cold" in name,
        tool="fio 3.33" if "random" in name or "sequential" in name else "",
    )


def _cell(generator: random.Random, workload: Workload, column: Column, base: float) -> Cell:
    if column.reason:
        return Cell(workload=workload.name, column=column.name, error=column.reason)
    if (workload.name, column.name) == ("xattrs", "fuse-overlayfs"):
        return Cell(workload=workload.name, column=column.name, error="setxattr user.pe: Operation not supported")
    if (workload.name, column.name) == ("mount-120", "fuse-overlayfs"):
        error = "round 3: mount program exited with 1: too many layers"
        return Cell(workload=workload.name, column=column.name, values=(0.21, 0.22), rounds=(1, 2), error=error)
    if (workload.name, column.name) == ("mount-memory", "plain directory"):
        return Cell(workload=workload.name, column=column.name)
    share = {"data": 0.25, "memory": 1.5}.get(workload.group, 1.0) * generator.choice((0.0, 0.6, 1.0, 1.4))
    factor = _SLOWNESS.get(column.name, 2.0) ** share
    middle = base / factor if workload.better == HIGHER else base * factor
    noise = generator.choice((0.01, 0.03, 0.08))
    values = tuple(middle * generator.lognormvariate(0, noise) for _ in range(ROUNDS))
    return Cell(workload=workload.name, column=column.name, values=values, rounds=tuple(range(1, ROUNDS + 1)))

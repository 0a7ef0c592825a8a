"""Compare union filesystems side by side in one run: fuse_union, the kernel's overlayfs, fuse-overlayfs, no union."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import comparison
import isolation
import report
import workloads
from unions import FuseUnion, Place, Plain, Union, unions
from workloads import NS_PER_MS, Clock, Sizes

from plugengine.errors import PlugengineError
from plugengine.kernel.mount import mount
from plugengine.model import HostPath
from plugengine.testing.case_directory import loop_filesystem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Use = Callable[[Path], None]

LAYER_COUNTS: Final = (1, 20, 120)
FEWEST_ROUNDS: Final = 7
IMAGE_BYTES: Final = 16 << 30  # sparse: only what is written takes room
ORDER_SEED: Final = 1
_places = itertools.count()


def main() -> int:
    """Parse the command line; go into namespaces, or measure when already there."""
    options = parse(sys.argv[1:])
    if os.geteuid() != 0:
        print("fuse.py: root is needed to mount", file=sys.stderr)
        return 2
    if not options.inside:
        argv = [sys.executable, str(Path(__file__).resolve()), "--inside", *sys.argv[1:]]
        return isolation.supervise(argv, options.directory)
    return compare(options, own_filesystem(isolation.enter()))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=FEWEST_ROUNDS, help="rounds that count (default %(default)s)")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before them, discarded (default %(default)s)")
    parser.add_argument("--full", action="store_true", help="10,000 files, 1 GB of data: minutes instead of one")
    names = [union.name for union in unions()]
    parser.add_argument("--union", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument("--one-cpu", action="store_true", help="keep all processes on one: whom a server wakes is near")
    parser.add_argument("--requests", action="store_true", help="count fuse_union's requests instead of comparing")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="where the trees are made")
    parser.add_argument("--json", action="store_true", help="print JSON with every sample instead of the table")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def own_filesystem(work: Path) -> Path:
    """Mount a new ext4 for the run where the machine can, so that none starts on what others left on the disk.

    ext4 passes over inode numbers freed within the last minutes where it has no journal (recently_deleted() in
    fs/ext4/ialloc.c), and making a file takes thirty times as long in a directory where many were removed.
    """
    image, point = work / "image", work / "disk"
    point.mkdir()
    try:
        with loop_filesystem("ext4", HostPath(str(image)), IMAGE_BYTES) as device:
            mount(device, str(point), "ext4")
    except (PlugengineError, OSError) as exc:
        print(f"fuse.py: without a filesystem of its own: {exc}", file=sys.stderr)
        return work
    return point


def compare(options: argparse.Namespace, work: Path) -> int:
    """Build the layers, measure, print; return the exit code."""
    sizes = workloads.FULL if options.full else Sizes()
    layers = build_layers(work, sizes)
    about = report.machine(work)
    if options.one_cpu:
        # Waking a process on another, idle processor costs more than the request itself, and chance decides on it.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        about["processors used"] = "one"
    if options.requests:
        print(json.dumps(requests(layers[:1], work, sizes), indent=2))
        return 0
    chosen = [union for union in unions() if not options.union or union.name in options.union]
    for union in [union for union in chosen if union.unavailable()]:
        about[union.name] = union.unavailable() or ""
        chosen.remove(union)
    samples: comparison.Samples = {}
    order = random.Random(ORDER_SEED)
    for number in range(options.warmup + options.rounds):
        if sys.stderr.isatty():
            print(
                f"\r\x1b[Kround {number + 1} of {options.warmup + options.rounds}", end="", file=sys.stderr, flush=True
            )
        # At random, because each leaves work to the disk, and no one shall always be next to meet it.
        for union in order.sample(chosen, len(chosen)):
            found = {**one_round(union, layers[:1], work, sizes), **mounts(union, layers, work)}
            if number >= options.warmup:
                for name, elapsed_ms in found.items():
                    samples.setdefault(name, {}).setdefault(union.name, []).append(elapsed_ms)
    about["load at the end"] = " ".join(f"{value:.2f}" for value in os.getloadavg())
    names = [union.name for union in chosen]
    document = comparison.document(samples, about)
    print(json.dumps(document, indent=2) if options.json else comparison.table(samples, names, about))
    return 1 if options.check and not all(bar.met for bar in comparison.bars(samples)) else 0


def build_layers(work: Path, sizes: Sizes) -> list[Path]:
    """Return layers, topmost first: one with the tree, and as many small ones as the longest chain needs."""
    directory = work / "layers"
    layers = [directory / f"{number:x}" for number in range(max(LAYER_COUNTS))]
    for layer in layers:
        (layer / "etc").mkdir(parents=True)
    workloads.build(layers[0], sizes)
    return layers


def one_round(union: Union, layers: Sequence[Path], work: Path, sizes: Sizes) -> dict[str, float]:
    """Run all workloads once on a new upper directory."""
    clock = Clock()
    with_mount(union, layers, work, lambda root: workloads.everything(root, sizes, clock))
    return clock.samples


def with_mount(union: Union, layers: Sequence[Path], work: Path, use: Use) -> None:
    """Mount, use, unmount, and remove what was written."""
    directory = work / f"place{next(_places)}"
    place = Place(layers, directory)
    root = union.mount(place)
    try:
        use(root)
    finally:
        union.unmount(place)
        union.wait()
        shutil.rmtree(directory)


def mounts(union: Union, layers: Sequence[Path], work: Path) -> dict[str, float]:
    """Time mounting together with unmounting, for chains of several lengths."""
    found: dict[str, float] = {}
    for count in LAYER_COUNTS if not isinstance(union, Plain) else ():
        directory = work / f"place{next(_places)}"
        place = Place(layers[-count:], directory)
        begin = time.perf_counter_ns()
        union.mount(place)
        mounted = time.perf_counter_ns()
        union.unmount(place)
        found[f"mount, {count} layers"] = (mounted - begin) / NS_PER_MS
        found[f"mount+unmount, {count} layers"] = (time.perf_counter_ns() - begin) / NS_PER_MS
        union.wait()
        shutil.rmtree(directory)
    return found


def requests(layers: Sequence[Path], work: Path, sizes: Sizes) -> dict[str, dict[str, int]]:
    """Return how often the kernel asked for what, by workload."""
    union = FuseUnion(count=True)
    found: dict[str, dict[str, int]] = {}

    def after(name: str) -> None:
        found[name] = union.requests()

    clock = Clock(after=after)
    with_mount(union, layers, work, lambda root: workloads.everything(root, sizes, clock))
    return found


if __name__ == "__main__":
    sys.exit(main())

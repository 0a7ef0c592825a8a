"""Compare how long `run --rm IMAGE true` takes: pe, docker and podman, side by side in one run."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import isolation
import report
import rootfs
from engines import Docker, Engine, EngineError, Pe, Podman, cases_of, environment
from measure import Case, check, measure

if TYPE_CHECKING:
    from collections.abc import Sequence

ENGINES = ("pe", "docker", "podman")


def main() -> int:
    """Parse the command line; go into namespaces, or measure when already there."""
    options = parse(sys.argv[1:])
    if os.geteuid() != 0:
        print("start.py: root is needed to make namespaces", file=sys.stderr)
        return 2
    if not options.inside:
        argv = [sys.executable, str(Path(__file__).resolve()), "--inside", *sys.argv[1:]]
        return isolation.supervise(argv, options.directory)
    return compare(options, isolation.enter())


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="rounds that count (default 20)")
    parser.add_argument("--warmup", type=int, default=3, help="rounds before them, discarded (default 3)")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="only this engine; may be repeated")
    parser.add_argument("--storage", action="append", help="storage drivers of pe (default overlay, fuse_union)")
    parser.add_argument("--pe", default=default_pe(), help="the pe to measure (default %(default)s)")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="where roots are made")
    parser.add_argument("--json", action="store_true", help="print JSON with every sample instead of the table")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed or pe cannot run")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def default_pe() -> str:
    """Return the pe of this interpreter's environment, else the one in PATH."""
    beside = Path(sys.executable).parent / "pe"
    return str(beside) if beside.is_file() else shutil.which("pe") or str(beside)


def compare(options: argparse.Namespace, work: Path) -> int:
    """Prepare the engines, measure, print; return the exit code."""
    (work / "home").mkdir()
    tar = work / "rootfs.tar"
    rootfs.build(tar)
    about = report.machine(work)
    engines = chosen(options, work)
    cases, versions = floors(work), dict[str, str]()
    try:
        for engine in engines:
            note(f"preparing {engine.name}")
            cases += prepared(engine, tar, work, versions)
        for case in cases:
            check(case, work / "output")
        measure(
            cases,
            rounds=options.rounds,
            warmup=options.warmup,
            output=work / "output",
            progress=lambda number: note(f"round {number + 1} of {options.warmup + options.rounds}"),
        )
    finally:
        for engine in engines:
            engine.close()
    show = report.document(cases, about, versions) if options.json else report.table(cases, about, versions)
    print(json.dumps(show, indent=2) if options.json else show)
    missed = any(bar.met is False or bar.median_ms is None for bar in report.bars(cases))
    return 1 if options.check and missed else 0


def chosen(options: argparse.Namespace, work: Path) -> list[Engine]:
    """Return the engines asked for, in a fixed order."""
    pe = Pe(work=work, program=options.pe)
    if options.storage:
        pe.storages = options.storage
    everything: list[Engine] = [pe, Docker(work=work), Podman(work=work)]
    return [engine for engine in everything if engine.name in (options.engine or ENGINES)]


def prepared(engine: Engine, tar: Path, work: Path, versions: dict[str, str]) -> list[Case]:
    """Make an engine ready; when that fails its rows say so."""
    failure = None
    try:
        versions.update(engine.prepare(tar))
    except (EngineError, OSError) as exc:
        failure = str(exc)
    cases = list(cases_of(engine, work))
    for case in cases:
        case.failure = failure
    return cases


def floors(work: Path) -> list[Case]:
    """Return what no engine can be faster than: a process, and for pe an interpreter."""
    commands = {"process": ["/bin/true"], "interpreter": [sys.executable, "-I", "-S", "-c", "pass"]}
    return [
        Case(engine=report.FLOOR, name=name, argv=argv, environment=environment(work))
        for name, argv in commands.items()
    ]


def note(text: str) -> None:
    """Say on a terminal how far the run is."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

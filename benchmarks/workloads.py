"""What processes do with a tree: each workload times itself below the root of a mounted union."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import sysconfig
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NS_PER_MS: Final = 1_000_000
FILE_BYTES: Final = 4096
FILES_PER_DIRECTORY: Final = 100
CHUNK: Final = 1 << 20
MIB: Final = 1 << 20
PROBE_DIRECTORIES: Final = 30
PROBES_EACH: Final = 100
SOURCES: Final = 8
INCLUDE_DIRECTORIES: Final = 20
SEED: Final = 1
# What a package of many modules imports; the copy of the standard library in the tree is imported, not the host's.
IMPORTS: Final = "asyncio, email.message, http.server, unittest.mock, xml.dom.minidom, sqlite3, logging.config"
LEFT_OUT: Final = ("test", "tests", "idlelib", "tkinter", "site-packages", "lib2to3", "config-*", "ensurepip")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything."""

    files: int = 2_000
    created: int = 1_000
    copied: int = 200
    large_mib: int = 64
    data_mib: int = 128
    random_calls: int = 5_000


FULL: Final = Sizes(files=10_000, created=5_000, copied=1_000, large_mib=500, data_mib=1024, random_calls=50_000)


@dataclass
class Clock:
    """Collects the milliseconds of named parts; `after` is told of each that is complete."""

    samples: dict[str, float] = field(default_factory=dict)
    after: Callable[[str], None] = lambda _name: None

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        begin = time.perf_counter_ns()
        yield
        self.samples[name] = (time.perf_counter_ns() - begin) / NS_PER_MS
        self.after(name)


def build(layer: Path, sizes: Sizes) -> None:
    """Make the tree that all workloads use, in a directory that becomes a layer."""
    for number in range(sizes.files):
        directory = layer / "tree" / f"d{number // FILES_PER_DIRECTORY}"
        if number % FILES_PER_DIRECTORY == 0:
            directory.mkdir(parents=True)
        (directory / f"f{number}").write_bytes(os.urandom(FILE_BYTES))
    copies = layer / "copies"
    copies.mkdir()
    for number in range(sizes.copied):
        (copies / f"c{number}").write_bytes(os.urandom(FILE_BYTES))
    for name, mib in (("large", sizes.large_mib), ("data", sizes.data_mib)):
        with open(layer / name, "wb") as stream:
            for _ in range(mib):
                stream.write(os.urandom(MIB))
    for number in range(PROBE_DIRECTORIES):
        (layer / "probes" / f"p{number}").mkdir(parents=True)
    _build_programs(layer)
    os.sync()


def _build_programs(layer: Path) -> None:
    library = sysconfig.get_paths()["stdlib"]
    shutil.copytree(library, layer / "library", ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    source = layer / "source"
    for number in range(INCLUDE_DIRECTORIES):
        (source / f"include{number}").mkdir(parents=True)
        (source / f"include{number}" / f"header{number}.h").write_text(f"static const int value{number} = {number};\n")
    headers = "".join(f"#include <header{number}.h>\n" for number in range(INCLUDE_DIRECTORIES))
    for number in range(SOURCES):
        body = f"int function{number}(void) {{ return value0 + value1; }}\n"
        (source / f"source{number}.c").write_text(headers + "#include <stdio.h>\n" + body)
    git = layer / "repository"
    shutil.copytree(layer / "tree", git)
    run("git", "init", "--quiet", cwd=git)
    run("git", "add", "--all", cwd=git)
    run("git", *_GIT_IDENTITY, "commit", "--quiet", "--message", "all", cwd=git)


_GIT_IDENTITY: Final = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "gc.auto=0")


def run(*argv: str, cwd: Path) -> None:
    """Run a program quietly.

    Raises:
        CalledProcessError: It did not succeed.
    """
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(argv, cwd=cwd, check=True, env=environment, stdout=subprocess.DEVNULL)


def everything(root: Path, sizes: Sizes, clock: Clock) -> None:
    """Run all workloads in an order in which none disturbs the next: first what reads, `rm -r` last."""
    os.chdir(root)
    try:
        walk_and_read(clock)
        probe(root, clock)
        programs(root, clock)
        data(sizes, clock)
        create(sizes, clock)
        copy_up(clock)
        with clock.time("rm -r"):
            run("rm", "-r", "tree", cwd=root)
    finally:
        os.chdir("/")


def walk_and_read(clock: Clock) -> None:
    """Walk and read a tree when the union is new ("cold"; the disk's cache is not), and again."""
    files: list[str] = []
    for state in ("cold", "warm"):
        with clock.time(f"walk, {state}"):
            files = _walk("tree")
    for state in ("cold", "warm"):
        with clock.time(f"open+read+close, {state}"):
            for path in files:
                fd = os.open(path, os.O_RDONLY)
                os.read(fd, FILE_BYTES)
                os.close(fd)


def _walk(top: str) -> list[str]:
    files = []
    with os.scandir(top) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                files += _walk(entry.path)
            else:
                os.lstat(entry.path)
                files.append(entry.path)
    return files


def probe(root: Path, clock: Clock) -> None:
    """Ask for names that are not there, as an import with many path entries does."""
    paths = [f"probes/p{number}/m{module}.py" for module in range(PROBES_EACH) for number in range(PROBE_DIRECTORIES)]
    for state in ("cold", "warm"):
        with clock.time(f"absent names, {state}"):
            for path in paths:
                os.access(path, os.F_OK)
    entries = [f"probes/p{number}" for number in range(PROBE_DIRECTORIES)]
    statement = f"import sys; sys.path[:0] = {entries!r}; import {IMPORTS}"
    run(sys.executable, "-ISBc", statement, cwd=root)
    with clock.time("python, 30 path entries"):
        run(sys.executable, "-ISBc", statement, cwd=root)


def programs(root: Path, clock: Clock) -> None:
    """Run programs as people do."""
    statement = f"import sys; sys.path[:0] = ['library']; import {IMPORTS}"
    for state in ("cold", "warm"):
        with clock.time(f"python import, {state}"):
            run(sys.executable, "-ISBc", statement, cwd=root)
    for state in ("cold", "warm"):
        with clock.time(f"git status, {state}"):
            run("git", "-c", "safe.directory=*", "status", "--short", cwd=root / "repository")
    includes = [f"-Iinclude{number}" for number in range(INCLUDE_DIRECTORIES)]
    with clock.time("gcc"):
        for number in range(SOURCES):
            source = f"source{number}"
            run("gcc", "-O1", *includes, "-c", f"{source}.c", "-o", f"{source}.o", cwd=root / "source")


def data(sizes: Sizes, clock: Clock) -> None:
    """Move much data, in order and at random."""
    order = random.Random(SEED)
    blocks = sizes.data_mib * MIB // FILE_BYTES
    offsets = [order.randrange(blocks) * FILE_BYTES for _ in range(sizes.random_calls)]
    fd = os.open("data", os.O_RDONLY)
    buffer = bytearray(CHUNK)
    with clock.time("read, in order"):
        while os.readv(fd, [buffer]):
            pass
    small = bytearray(FILE_BYTES)
    with clock.time("read, at random"):
        for offset in offsets:
            os.preadv(fd, [small], offset)
    os.close(fd)
    _write_once(sizes, buffer)
    fd = os.open("written", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    with clock.time("write, in order"):
        for _ in range(sizes.data_mib):
            os.write(fd, buffer)
    with clock.time("write, at random"):
        for offset in offsets:
            os.pwrite(fd, small, offset)
    os.close(fd)
    os.unlink("written")  # before the disk is written to, which would disturb what comes next


def _write_once(sizes: Sizes, buffer: bytearray) -> None:
    """Write and remove as much as will be written: a virtual machine's memory is slow the first time it is used."""
    fd = os.open("written", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    for _ in range(sizes.data_mib):
        os.write(fd, buffer)
    os.close(fd)
    os.unlink("written")


def create(sizes: Sizes, clock: Clock) -> None:
    """Make small files, look at them, remove them."""
    os.mkdir("made")
    paths = [f"made/f{number}" for number in range(sizes.created)]
    block = bytes(FILE_BYTES)
    with clock.time("create"):
        for path in paths:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(fd, block)
            os.close(fd)
    with clock.time("stat what was created"):
        for path in paths:
            os.lstat(path)
    with clock.time("unlink"):
        for path in paths:
            os.unlink(path)


def copy_up(clock: Clock) -> None:
    """Append to files of a layer."""
    paths = [f"copies/{name}" for name in os.listdir("copies")]
    with clock.time("copy-up, small files"):
        for path in paths:
            _append(path)
    with clock.time("copy-up, one large file"):
        _append("large")


def _append(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"x")
    os.close(fd)

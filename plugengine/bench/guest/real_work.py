"""What people do in containers: unpack sources, check out, compile, import, keep a database, install a package."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from compileall import compile_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.bench.guest.agent import Job

IMPORTS = "asyncio, email.message, http.server, unittest.mock, xml.dom.minidom, logging.config, concurrent.futures"


def unpack_sources(job: Job) -> float | None:
    """Unpack a tar of sources with Python's tarfile."""
    with job.timed(), tarfile.open("sources.tar") as archive:
        if hasattr(tarfile, "fully_trusted_filter"):
            archive.extraction_filter = staticmethod(tarfile.fully_trusted_filter)
        archive.extractall(job.work)  # noqa: S202 - our own
    return None


def compile_all(job: Job) -> float | None:
    """Compile a copy of the sources, as a build of an image does."""
    with job.timed():
        done = compile_dir("sources", quiet=2, force=True, workers=1)
    if not done:
        raise RuntimeError("compileall: not all sources could be compiled")
    return None


def import_once(job: Job) -> float | None:
    """Start Python and import many modules from a library of the image, behind a search path."""
    statement = _imports(job)
    with job.timed():
        _run(sys.executable, "-ISBc", statement)
    return None


def import_again(job: Job) -> float | None:
    """The same when all is in memory; the mean of several starts."""
    statement = _imports(job)
    _run(sys.executable, "-ISBc", statement)
    with job.timed():
        for _ in range(job.sizes["passes"]):
            _run(sys.executable, "-ISBc", statement)
    return job.elapsed_s / job.sizes["passes"]


def _imports(job: Job) -> str:
    path = [os.path.join(job.area, "path", name) for name in sorted(os.listdir("path"))] + [job.area + "/library"]
    return f"import sys; sys.path[:0] = {path!r}; import {IMPORTS}"


def database(job: Job) -> float | None:
    """Insert rows, each in a transaction of its own, with SQLite's write-ahead log."""
    connection = sqlite3.connect(job.work + "/database", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, content BLOB)")
    block = bytes(256)
    with job.timed():
        for _ in range(job.sizes["transactions"]):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO rows (content) VALUES (?)", (block,))
            connection.execute("COMMIT")
    connection.close()
    return None


def git_checkout(job: Job) -> float | None:
    """Check the tree out of a packed repository."""
    git = _need("git")
    shutil.copytree("repository", job.work + "/tree/.git")
    with job.timed():
        _run(git, "-C", job.work + "/tree", "-c", "safe.directory=*", "checkout", "--quiet", "--force", "HEAD")
    return None


def install_package(job: Job) -> float | None:
    """Install a Debian package into a root of its own; dpkg waits for the disk as it always does."""
    dpkg = _need("dpkg")
    root = job.work + "/root"
    for name in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "tmp"):
        os.makedirs(root + "/" + name)
    for name in ("status", "available"):
        with open(root + "/var/lib/dpkg/" + name, "w", encoding="ascii"):
            pass
    with job.timed():
        _run(dpkg, "--root=" + root, "--log=/dev/null", "--force-all", "--install", job.area + "/sources.deb")
    return None


def _need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise RuntimeError(f"{program} is not in the image")
    return found


def _run(*argv: str) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        lines = done.stdout.decode(errors="replace").strip().splitlines()
        why = lines[-1] if lines else f"exit code {done.returncode}"
        raise RuntimeError(f"{argv[0]}: {why}")

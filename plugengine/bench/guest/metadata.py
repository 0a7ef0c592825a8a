"""Names and attributes: walk, open, probe for what is not there, make, rename, link, remove."""

from __future__ import annotations

import os
import shutil

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.bench.guest.agent import Job

FILE_BYTES = 4096
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_RENAMES = 4
_XATTR = "user.bench"


def walk_once(job: Job) -> float | None:
    """Walk the tree for the first time and stat every file."""
    with job.timed():
        _walk(job)
    return None


def walk_again(job: Job) -> float | None:
    """Walk the tree when it is known; the mean of several passes."""
    _walk(job)
    with job.timed():
        for _ in range(job.sizes["passes"]):
            _walk(job)
    return job.elapsed_s / job.sizes["passes"]


def _walk(job: Job) -> None:
    for path in job.files():
        os.lstat(path)


def read_once(job: Job) -> float | None:
    """Open, read and close every file for the first time."""
    with job.timed():
        for path in job.files():
            _read(path)
    return None


def read_again(job: Job) -> float | None:
    """Open, read and close every file when all are known; the mean of several passes."""
    paths = list(job.files())
    for path in paths:
        _read(path)
    with job.timed():
        for _ in range(job.sizes["passes"]):
            for path in paths:
                _read(path)
    return job.elapsed_s / job.sizes["passes"]


def _read(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    while os.read(fd, FILE_BYTES):
        pass
    os.close(fd)


def probe_absent(job: Job) -> float | None:
    """Ask for names that are not there, in every directory of a search path, as an import or a compiler does."""
    directories = sorted(os.listdir("."))
    names = [f"module{number}.py" for number in range(job.sizes["names"])]
    paths = [directory + "/" + name for name in names for directory in directories]
    for path in paths:
        os.access(path, os.F_OK)
    with job.timed():
        for _ in range(job.sizes["passes"]):
            for path in paths:
                os.access(path, os.F_OK)
    return job.elapsed_s / job.sizes["passes"]


def create(job: Job) -> float | None:
    """Make small files, stat them, remove them."""
    paths = [f"{job.work}/file{number}" for number in range(job.sizes["files"])]
    block = bytes(FILE_BYTES)
    with job.timed():
        for path in paths:
            fd = os.open(path, _NEW, 0o644)
            os.write(fd, block)
            os.close(fd)
        for path in paths:
            os.lstat(path)
        for path in paths:
            os.unlink(path)
    return None


def rename(job: Job) -> float | None:
    """Rename new files to and fro between two directories, as mail servers and editors do."""
    places = [job.work + "/new", job.work + "/cur"]
    for place in places:
        os.mkdir(place)
    numbers = range(job.sizes["files"])
    for number in numbers:
        os.close(os.open(f"{places[0]}/{number}", _NEW, 0o644))
    with job.timed():
        for turn in range(_RENAMES):
            source, target = places[turn % 2], places[(turn + 1) % 2]
            for number in numbers:
                os.rename(f"{source}/{number}", f"{target}/{number}")
    return None


def link(job: Job) -> float | None:
    """Give a new file many names and remove them."""
    source = job.work + "/source"
    os.close(os.open(source, _NEW, 0o644))
    names = [f"{job.work}/name{number}" for number in range(job.sizes["links"])]
    with job.timed():
        for name in names:
            os.link(source, name)
        for name in names:
            os.unlink(name)
    return None


def xattrs(job: Job) -> float | None:
    """Set, list, read and remove an extended attribute of new files."""
    paths = [f"{job.work}/file{number}" for number in range(job.sizes["files"])]
    for path in paths:
        os.close(os.open(path, _NEW, 0o644))
    with job.timed():
        for path in paths:
            os.setxattr(path, _XATTR, b"value")
            os.listxattr(path)
            os.getxattr(path, _XATTR)
            os.removexattr(path, _XATTR)
    return None


def remove_tree(job: Job) -> float | None:
    """Remove the tree that came with the image."""
    with job.timed():
        shutil.rmtree("tree")
    return None


def copy_up_small(job: Job) -> float | None:
    """Append a byte to each of many small files of the image."""
    names = sorted(os.listdir("small"))
    with job.timed():
        for name in names:
            _append("small/" + name)
    return None


def copy_up_large(job: Job) -> float | None:
    """Append a byte to one large file of the image."""
    with job.timed():
        _append("large")
    return None


def _append(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"x")
    os.close(fd)

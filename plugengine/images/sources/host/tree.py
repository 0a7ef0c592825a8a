"""Plan a root filesystem out of the host's own files, then copy it; the plan is complete before a byte is written."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from typing import TYPE_CHECKING

from msgspec import Struct

from plugengine.errors import NotFoundError, NotSupportedError
from plugengine.images.layers.overlay_form import CAPABILITY_XATTR
from plugengine.images.sources.host.libraries import Libraries, default_directories

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plugengine.model import HostPath

Stamp = tuple[int, int, int]  # size, mtime in ns, inode

_MAXSYMLINKS = 40
_SHEBANG_BYTES = 256  # BINPRM_BUF_SIZE
_NO_CLONE = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EPERM})


class Node(Struct, frozen=True):
    """One file of the image to be; exactly one of the members besides the mode says what it is."""

    source: str | None = None  # copy of this host file
    link: str | None = None  # symlink
    content: bytes | None = None  # generated file; none of these: a directory
    mode: int = 0o755


class HostTree:
    """What an image of the host's files will hold; `inputs` are the files it depends on, by their stamps."""

    def __init__(self, *, search: Iterable[str] = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin")) -> None:
        self.nodes: dict[str, Node] = {}
        self.inputs: dict[str, Stamp | None] = {}
        self.newest_mtime_ns: int = 0
        self._search = tuple(search)
        self._libraries = Libraries()

    # --- planning ---

    def add_named_program(self, name: str) -> bool:
        """Add a program found in the search path, if there is one."""
        for directory in self._search:
            path = f"{directory}/{name}"
            if os.access(path, os.X_OK) and not os.path.isdir(path):
                self.add_program(path)
                return True
            self.watch(directory)  # where it might appear; one stat(2) for all names, not one for each
        return False

    def add_program(self, path: str) -> None:
        """Add an executable and what it needs: libraries, or the interpreter of a script.

        Raises:
            NotFoundError: It, or a library it needs, is not there.
        """
        if path in self.nodes:
            return
        real = self.add_path(path)
        self.add_needs(real)
        with open(real, "rb") as file:
            first = file.read(_SHEBANG_BYTES).partition(b"\n")[0]
        if first.startswith(b"#!"):
            self._add_interpreter(path, os.fsdecode(first[2:]).split())

    def _add_interpreter(self, script: str, words: list[str]) -> None:
        if not words or not words[0].startswith("/"):
            raise NotFoundError(f"program {script}: its first line names no interpreter")
        self.add_program(words[0])
        arguments = [word for word in words[1:] if not word.startswith("-")]
        if os.path.basename(words[0]) == "env" and arguments and not self.add_named_program(arguments[0]):
            raise NotFoundError(f"program {script}: its interpreter {arguments[0]} is not in the search path")

    def add_needs(self, path: str, *, required: bool = True) -> bool:
        """Add the loader and the libraries of an ELF file; False (when not required) if one is missing."""
        interpreter, libraries, missing = self._libraries.closure(path)
        if missing:
            if not required:
                return False
            raise NotFoundError(f"program {path}: needs {', '.join(missing)}, which this machine does not have")
        if interpreter is not None:
            self.add_path(interpreter)
        for library in libraries:
            real = self.add_path(library.path)
            if not library.default:
                self.add_library_name(library.name, real, interpreter=interpreter)
        return True

    def add_library_name(self, name: str, target: str, *, interpreter: str | None = None) -> None:
        """Link a library from where the loader looks by itself: the guest has no ld.so.cache."""
        if interpreter is None:
            interpreter = self._libraries.closure("/proc/self/exe")[0]
        self.nodes.setdefault(f"{default_directories(interpreter)[0]}/{name}", Node(link=target))

    def add_path(self, path: str) -> str:
        """Add a file as it is on the host, with the symlinks on the way to it; return where it really is.

        Raises:
            NotFoundError: There is no such file.
        """
        pending = [part for part in reversed(path.split("/")) if part]
        done, links = "", 0
        while pending:
            part = pending.pop()
            if part == "..":
                done = done.rpartition("/")[0]
                continue
            at = f"{done}/{part}"
            try:
                target = os.readlink(at)
            except OSError as exc:
                if exc.errno != errno.EINVAL:  # EINVAL: no symlink
                    raise NotFoundError(f"host file {path}: {os.strerror(exc.errno or 0).lower()}") from exc
                done = at
                continue
            links += 1
            if links > _MAXSYMLINKS:
                raise NotFoundError(f"host file {path}: too many levels of symbolic links")
            self.nodes[at] = Node(link=target)
            pending += [one for one in reversed(target.split("/")) if one not in ("", ".")]
            done = "" if target.startswith("/") else done
        self._add_file(path, done)
        return done

    def _add_file(self, path: str, real: str) -> None:
        self.watch(path)
        found = os.stat(real)
        if stat.S_ISREG(found.st_mode):
            self.copy(real, real, found)
        elif stat.S_ISDIR(found.st_mode):
            self.nodes.setdefault(real, Node())
        else:
            raise NotSupportedError(f"host file {path}: neither a file nor a directory")

    def copy(self, source: str, target: str, found: os.stat_result) -> None:
        """Add a copy of a host file at another place; the file itself is not watched."""
        self.newest_mtime_ns = max(self.newest_mtime_ns, found.st_mtime_ns)
        self.nodes[target] = Node(source=source, mode=found.st_mode & 0o7777)

    def write(self, path: str, content: str, *, mode: int = 0o644) -> None:
        """Add a generated file."""
        self.nodes[path] = Node(content=content.encode(), mode=mode)

    def link(self, path: str, target: str) -> None:
        """Add a symlink."""
        self.nodes[path] = Node(link=target)

    def directory(self, path: str, *, mode: int = 0o755) -> None:
        """Add an empty directory."""
        self.nodes[path] = Node(mode=mode)

    def watch(self, path: str) -> Stamp | None:
        """Note that the image depends on a file, there or not."""
        self.inputs[path] = stamp(path)
        return self.inputs[path]

    # --- copying ---

    def build(self, directory: HostPath) -> int:
        """Copy everything below an empty directory; return the size of all files.

        Times of directories, links and generated files are zero and every owner is root, so that the same host
        files give the same layer.
        """
        size = 0
        made = {""}
        for path in sorted(self.nodes):
            self._make_parents(directory, os.path.dirname(path.rstrip("/")).rstrip("/"), made)
            size += _build_node(f"{directory}{path}", self.nodes[path], made=path in made)
            made.add(path)
        for path in sorted(made, reverse=True):
            if path not in self.nodes or _is_directory(self.nodes[path]):
                os.utime(f"{directory}{path}", ns=(0, 0))
        return size

    def _make_parents(self, directory: HostPath, path: str, made: set[str]) -> None:
        if path in made:
            return
        if path in self.nodes and not _is_directory(self.nodes[path]):
            raise NotSupportedError(f"host file {path}: is needed both as a file and as a directory")
        self._make_parents(directory, os.path.dirname(path).rstrip("/"), made)
        os.mkdir(f"{directory}{path}")
        os.chmod(f"{directory}{path}", 0o755)  # noqa: S103 - a root filesystem is for everyone
        made.add(path)


def stamp(path: str) -> Stamp | None:
    """Return what changes when a file changes; None when it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def _is_directory(node: Node) -> bool:
    return node.source is None and node.link is None and node.content is None


def _build_node(target: str, node: Node, *, made: bool) -> int:
    if node.link is not None:
        os.symlink(node.link, target)
        os.utime(target, ns=(0, 0), follow_symlinks=False)
        return 0
    if _is_directory(node):
        if not made:
            os.mkdir(target)
        os.chmod(target, node.mode)
        return 0
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        mtime_ns = 0
        if node.content is not None:
            os.write(fd, node.content)
        elif node.source is not None:
            mtime_ns = _copy_file(node.source, fd)
        os.fchmod(fd, node.mode)
        os.utime(fd, ns=(mtime_ns, mtime_ns))
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def _copy_file(source: str, target_fd: int) -> int:
    """Copy data and file capabilities, sharing blocks where the filesystem can; return the source's mtime."""
    from plugengine.kernel.files import ficlone

    source_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            ficlone(target_fd, source_fd)
        except OSError as exc:
            if exc.errno not in _NO_CLONE:
                raise
            _copy_data(source_fd, target_fd)
        try:
            os.setxattr(target_fd, CAPABILITY_XATTR, os.getxattr(source_fd, CAPABILITY_XATTR))
        except OSError as exc:
            if exc.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
        return os.fstat(source_fd).st_mtime_ns
    finally:
        os.close(source_fd)


def _copy_data(source_fd: int, target_fd: int) -> None:
    try:
        while os.copy_file_range(source_fd, target_fd, 1 << 30):
            pass
    except OSError as exc:
        if exc.errno not in _NO_CLONE:
            raise
        os.lseek(source_fd, 0, os.SEEK_SET)
        os.lseek(target_fd, 0, os.SEEK_SET)
        with open(os.dup(source_fd), "rb") as reader, open(os.dup(target_fd), "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)

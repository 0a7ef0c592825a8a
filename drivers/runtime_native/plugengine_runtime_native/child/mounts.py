"""Perform the steps of a guest plan, every mount point resolved by descriptor below the container's root."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from plugengine.kernel import tty
from plugengine.kernel.attributes import fchownat
from plugengine.kernel.files import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    DEVPTS_SUPER_MAGIC,
    PROC_SUPER_MAGIC,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    create_file_in_root,
    fstatfs_type,
    mkdir_in_root,
    open_in_root,
    openat2,
)
from plugengine.kernel.libc import os_error
from plugengine.kernel.mount import (
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    fsconfig_create,
    fsconfig_set_flag,
    fsconfig_set_string,
    fsmount,
    fsopen,
    mount_setattr,
    move_mount,
    open_tree,
    pivot_root,
    umount2,
)
from plugengine.kernel.uts import setdomainname, sethostname

from plugengine_runtime_native import steps
from plugengine_runtime_native.child.report import WARNING, Reporter
from plugengine_runtime_native.inside import InsidePlan
from plugengine_runtime_native.sources import Sources

_NULL: Final = os.makedev(1, 3)  # Documentation/admin-guide/devices.txt
_TMPFS_MODE: Final = 0o1777  # of its root, unless another is asked for; see tmpfs(5)
_PTY_MAJOR: Final = 136
_PTY_MAJORS: Final = 8
_CLOSED: Final = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC


class Builder:
    """Runs the steps of one plan in one child."""

    def __init__(self, plan: InsidePlan, sources: Sources, reporter: Reporter) -> None:
        self._sources = sources
        self._reporter = reporter
        self._index = 0
        self._root = self._proc = self._pts = self._null = -1
        self._dev: int | None = None  # st_dev of the tmpfs on /dev
        self.terminal: int = -1  # the container's end of the pty
        self.plan = plan

    @property
    def stage(self) -> int:
        """The step that is being done, for a report."""
        return self._index

    def run(self) -> None:
        """Perform every step.

        Raises:
            OSError: One was refused; `stage` says which.
        """
        for index, step in enumerate(self.plan.steps):
            self._index = index
            self._actions[type(step)](self, step)

    def _make_private(self, _step: steps.MakePrivate) -> None:
        mount_setattr(AT_FDCWD, b"/", AT_RECURSIVE, propagation=MS_PRIVATE)

    def _attach_root(self, _step: steps.AttachRoot) -> None:
        # On top of the root we have: no path to walk, whoever we are. pivot_root(2) only wants a mount point.
        self._root = self._sources.trees[self._index]
        move_mount(self._root, b"", AT_FDCWD, b"/")

    def _mount_new(self, step: steps.MountNew) -> None:
        try:
            fs = fsopen(step.fstype)
        except OSError as exc:
            if not (step.optional and exc.errno == errno.ENODEV):
                raise
            self._reporter.failed(self._index, exc, kind=WARNING)
            return
        target = self._own_directory(step.target)
        fd = _new(fs, step.parameters, step.attributes)
        move_mount(fd, b"", target)
        os.close(target)
        if step.target == b"/proc":
            self._proc = fd
        elif step.target == b"/dev/pts":
            self._pts = fd
        else:
            if step.target == b"/dev":
                self._dev = os.fstat(fd).st_dev
            os.close(fd)

    def _mount_tmpfs(self, step: steps.MountTmpfs) -> None:
        parameters = step.parameters
        try:
            target = open_in_root(self._root, step.target, os.O_PATH)
            if not any(key == b"mode" for key, _value in parameters):
                mode = stat.S_IMODE(os.fstat(target).st_mode)
                parameters = (*parameters, (b"mode", b"%o" % mode))
        except FileNotFoundError:
            # With the mode of a new tmpfs: at the next start it is there, and looks like a directory of the image.
            target = mkdir_in_root(self._root, step.target, _TMPFS_MODE, parents_mode=0o755)
        self._refuse_procfs(target, step.target)
        fd = _new(fsopen(b"tmpfs"), parameters, step.attributes)
        move_mount(fd, b"", target)
        os.close(target)
        os.close(fd)

    def _mount_tree(self, step: steps.MountTree) -> None:
        fd = self._sources.trees[self._index]
        if not step.follow:
            target = self._own_directory(step.target)
        elif stat.S_ISDIR(os.fstat(fd).st_mode):
            target = mkdir_in_root(self._root, step.target)
        else:
            target = create_file_in_root(self._root, step.target)
        if not step.inside_proc:
            self._refuse_procfs(target, step.target)
        move_mount(fd, b"", target)
        os.close(target)
        os.close(fd)

    def _make_nodes(self, step: steps.MakeNodes) -> None:
        with _Parent(self._root) as parent:
            for node in step.nodes:
                _make_node(parent, node)

    def _bind_nodes(self, step: steps.BindNodes) -> None:
        for (_host, guest), fd in zip(step.nodes, self._sources.nodes[self._index], strict=True):
            target = create_file_in_root(self._root, guest, 0)
            move_mount(fd, b"", target)
            os.close(target)
            os.close(fd)

    def _make_links(self, step: steps.MakeLinks) -> None:
        with _Parent(self._root) as parent:
            for path, link_target in step.links:
                directory, name = parent.of(path)
                os.symlink(link_target, name, dir_fd=directory)

    def _make_console(self, step: steps.MakeConsole) -> None:
        if self._pts < 0:
            # /dev is the caller's; the terminal then has no name inside, but works.
            self._pts = _new(fsopen(b"devpts"), ((b"newinstance", None), (b"ptmxmode", b"0666")), 0)
        master, self.terminal = open_terminal(self._pts)
        self._reporter.terminal(master)
        os.close(master)
        if step.bind:
            # By the descriptor of TIOCGPTPEER, not by the name /dev/pts/N: CVE-2025-52565.
            target = create_file_in_root(self._root, b"/dev/console", 0o600)
            self._clone_onto(self.terminal, target)
            os.close(target)

    def _write_sysctl(self, step: steps.WriteSysctl) -> None:
        # The private procfs, by its mount's descriptor and no further: CVE-2025-52881, CVE-2019-16884.
        resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
        try:
            fd = openat2(self._proc, b"sys/" + step.path, os.O_WRONLY | os.O_CLOEXEC, 0, resolve)
        except FileNotFoundError:
            if step.optional:
                return
            raise
        if fstatfs_type(fd) != PROC_SUPER_MAGIC:
            raise os_error(errno.EPERM, "openat2", step.path, "not in procfs")
        try:
            os.write(fd, step.value)
        except OSError as exc:
            raise os_error(exc.errno or 0, "write", step.path) from None
        os.close(fd)

    def _set_names(self, step: steps.SetNames) -> None:
        sethostname(step.hostname)
        if step.domainname:
            setdomainname(step.domainname)

    def _mask_path(self, step: steps.MaskPath) -> None:
        target = self._existing(step.path)
        if target < 0:
            return
        if stat.S_ISDIR(os.fstat(target).st_mode):
            fd = _new(fsopen(b"tmpfs"), ((b"source", b"tmpfs"),), _CLOSED | MOUNT_ATTR_RDONLY)
            move_mount(fd, b"", target)
            os.close(fd)
        else:
            self._clone_onto(self._verified_null(), target)
        os.close(target)

    def _read_only_path(self, step: steps.ReadOnlyPath) -> None:
        target = self._existing(step.path)
        if target < 0:
            return
        fd = open_tree(target, b"", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)
        mount_setattr(fd, b"", AT_EMPTY_PATH | AT_RECURSIVE, attr_set=MOUNT_ATTR_RDONLY)
        move_mount(fd, b"", target)
        os.close(fd)
        os.close(target)

    def _make_directory(self, step: steps.MakeDirectory) -> None:
        os.close(mkdir_in_root(self._root, step.path))

    def _read_only_mount(self, step: steps.ReadOnlyMount) -> None:
        target = self._root if step.path == b"/" else self._own_directory(step.path)
        mount_setattr(target, b"", AT_EMPTY_PATH, attr_set=MOUNT_ATTR_RDONLY)
        if target != self._root:
            os.close(target)

    def _pivot(self, _step: steps.PivotRoot) -> None:
        os.fchdir(self._root)
        pivot_root(b".", b".")
        # The old root now lies on top of the new one, see pivot_root(2), "pivot_root(".", ".")".
        umount2(b".", MNT_DETACH)
        os.chdir(b"/")
        for fd in (self._root, self._proc, self._pts, self._null):
            if fd >= 0:
                os.close(fd)

    _actions: ClassVar[Mapping[type[Any], Callable[[Any, Any], None]]] = {
        steps.MakePrivate: _make_private,
        steps.AttachRoot: _attach_root,
        steps.MountNew: _mount_new,
        steps.MountTmpfs: _mount_tmpfs,
        steps.MountTree: _mount_tree,
        steps.MakeNodes: _make_nodes,
        steps.BindNodes: _bind_nodes,
        steps.MakeLinks: _make_links,
        steps.MakeConsole: _make_console,
        steps.WriteSysctl: _write_sysctl,
        steps.SetNames: _set_names,
        steps.MaskPath: _mask_path,
        steps.ReadOnlyPath: _read_only_path,
        steps.MakeDirectory: _make_directory,
        steps.ReadOnlyMount: _read_only_mount,
        steps.PivotRoot: _pivot,
    }

    def _own_directory(self, path: bytes) -> int:
        """Open a mount point of ours, made if missing; an image may not lead it elsewhere: CVE-2026-41579."""
        flags = os.O_PATH | os.O_DIRECTORY
        try:
            try:
                return open_in_root(self._root, path, flags, resolve=RESOLVE_NO_SYMLINKS)
            except FileNotFoundError:
                os.close(mkdir_in_root(self._root, path))
                return open_in_root(self._root, path, flags, resolve=RESOLVE_NO_SYMLINKS)
        except OSError as exc:
            if exc.errno != errno.ELOOP:
                raise
            raise os_error(errno.ELOOP, "openat2", path, "the image has a symbolic link there") from None

    def _existing(self, path: bytes) -> int:
        """Open a path of procfs or sysfs; -1 when this kernel does not have it."""
        try:
            return open_in_root(self._root, path, os.O_PATH, resolve=RESOLVE_NO_SYMLINKS)
        except (FileNotFoundError, NotADirectoryError):
            return -1

    def _verified_null(self) -> int:
        """Open the null device we made, and make sure that it is the one: CVE-2025-31133."""
        if self._null < 0:
            fd = open_in_root(self._root, b"/dev/null", os.O_PATH, resolve=RESOLVE_NO_SYMLINKS)
            found = os.fstat(fd)
            ours = self._dev is None or self.plan.has_user_namespace or found.st_dev == self._dev
            if not (stat.S_ISCHR(found.st_mode) and found.st_rdev == _NULL and ours):
                raise os_error(errno.EPERM, "openat2", b"/dev/null", "not the null device")
            self._null = fd
        return self._null

    def _clone_onto(self, source: int, target: int) -> None:
        fd = open_tree(source, b"", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
        move_mount(fd, b"", target)
        os.close(fd)

    def _refuse_procfs(self, target: int, path: bytes) -> None:
        """A link of the image may lead a mount into procfs, and hide what is written there: CVE-2019-19921."""
        if fstatfs_type(target) == PROC_SUPER_MAGIC:
            raise os_error(errno.EPERM, "move_mount", path, "a symbolic link of the image leads into procfs")


class _Parent:
    """The directory of one path after another, opened once as long as it stays the same."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._path = b""
        self._fd = -1

    def of(self, path: bytes) -> tuple[int, bytes]:
        """Return a descriptor, ours until the next call, and the name in that directory; what is missing is made."""
        directory, _slash, name = path.rpartition(b"/")
        if directory != self._path or self._fd < 0:
            self._close()
            self._path, self._fd = directory, mkdir_in_root(self._root, directory or b"/")
        return self._fd, name

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> _Parent:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._close()


def _make_node(parent: _Parent, node: steps.Node) -> None:
    directory, name = parent.of(node.path)
    try:
        os.mknod(name, node.mode, node.device, dir_fd=directory)
    except FileExistsError:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if (stat.S_IFMT(found.st_mode), found.st_rdev) != (stat.S_IFMT(node.mode), node.device):
            raise
        return
    if node.uid or node.gid:  # else it is ours, who are root, already
        fchownat(directory, name, node.uid, node.gid)


def open_terminal(devpts: int) -> tuple[int, int]:
    """Open a new pseudoterminal of a devpts instance: (the engine's end, the container's end).

    Both ends are checked: inside a running container the directory could be anything.
    """
    master = tty.open_ptmx(devpts)
    if fstatfs_type(master) != DEVPTS_SUPER_MAGIC:
        raise os_error(errno.ENODEV, "open", b"/dev/pts/ptmx", "not in devpts")
    tty.unlock_pty(master)
    peer = tty.open_pty_peer(master)
    found = os.fstat(peer)
    if not (stat.S_ISCHR(found.st_mode) and 0 <= os.major(found.st_rdev) - _PTY_MAJOR < _PTY_MAJORS):
        raise os_error(errno.ENODEV, "ioctl", b"/dev/pts/ptmx", "not a pseudoterminal")
    return master, peer


def _new(fs: int, parameters: steps.Parameters, attributes: int) -> int:
    for key, value in parameters:
        if value is None:
            fsconfig_set_flag(fs, key)
        else:
            fsconfig_set_string(fs, key, value)
    fsconfig_create(fs)
    fd = fsmount(fs, attr_flags=attributes)
    os.close(fs)
    return fd

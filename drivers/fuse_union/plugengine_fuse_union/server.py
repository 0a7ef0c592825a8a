"""The file server's process: mount, serve until unmounted; started by the core through `model.Server`."""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from plugengine.kernel.fuse import mount_fuse, open_fuse
from plugengine.kernel.mount import MNT_DETACH, MS_RDONLY, umount2

from plugengine_fuse_union.attribute_requests import AttributeRequests
from plugengine_fuse_union.connection import Connection
from plugengine_fuse_union.counters import shared_counters
from plugengine_fuse_union.directory_requests import DirectoryRequests
from plugengine_fuse_union.file_requests import FileRequests
from plugengine_fuse_union.handles import Handles
from plugengine_fuse_union.ioctl_requests import IoctlRequests
from plugengine_fuse_union.name_requests import NameRequests
from plugengine_fuse_union.owners import Owners, Range
from plugengine_fuse_union.protocol import KERNEL_MINOR_VERSION
from plugengine_fuse_union.union import Union

if TYPE_CHECKING:
    from plugengine_fuse_union.trace import Trace

_MOUNT_OPTIONS: Final = ("allow_other", "default_permissions")
_SUBTYPE: Final = "fuse_union"
# Of the descriptors allowed, the share for directories; the rest is for layers and files that are served here.
_DIRECTORY_SHARE: Final = 4
_MOST_DIRECTORIES: Final = 1024
_MOST_NODES: Final = 11_264  # of 400 bytes each: the table stays below 5 MB
_MOST_BACKED: Final = _MOST_NODES  # what is read over and over in turns finds its file only if all have room
_GRACE_S: Final = 2  # for processes that still use a mount that was told to end


def serve(config: Mapping[str, Any], ready: Callable[[], None]) -> int:
    """Mount a union at `config["target"]`, call `ready`, and serve it until it is unmounted.

    Args:
        config: "lowers" (directories, topmost first), "upper" and "work" (or None: read-only), "target", and
            optionally "read_only", "passthrough", "durable", "size" (bytes the upper directory may
            take), "trace" (a file), "note" (a file that
            `read_counters` takes), "user_map" ({"uids": [[guest, host, size] …], "gids": …}),
            "transport" ("devfuse", "fusepy", or "auto": fusepy where the kernel refuses the mount);
            "directories", "nodes", "backed" limit what is kept at hand (directory descriptors, known files, files
            registered for passthrough), which tests of running short set low; "without" are INIT flags not to use,
            and "minor" is the newest protocol to speak, as if the kernel were older;
            "flags" (MS_*), "mount_options", "source" and "subtype" are those of the mount; "whiteout_files"
            heeds `.wh.NAME` in layers as well; "follow" and "metacopy" heed what overlayfs marked as moved, or as
            copied without its data.
        ready: Called once when the mount can be used.

    Returns:
        The exit code of the process.
    """
    target = str(config["target"])
    transport = config.get("transport", "devfuse")
    try:
        if transport == "fusepy":
            return _serve_by_libfuse(config, target, ready)
        trace = _open_trace(config)  # before anything is mounted over it
        connection = _mount(config, target)
    except OSError as exc:
        if transport == "auto" and exc.errno == errno.EPERM:
            return _serve_by_libfuse(config, target, ready)
        what = "" if exc.filename is None else f" ({os.fsdecode(exc.filename)})"
        sys.stderr.write(f"fuse_union: mount on {target}: {exc.strerror}{what}\n")
        return 1
    try:
        connection.negotiate(
            passthrough=bool(config.get("passthrough", True)),
            without=int(config.get("without", 0)),
            most_minor=int(config.get("minor", KERNEL_MINOR_VERSION)),
        )
        _register(connection, most_backed=int(config.get("backed", _MOST_BACKED)))
        _watch(connection, trace)
        _share_counters(connection, config)
        _detach_on_signal(target)
        gc.freeze()
        gc.disable()  # nodes are freed by hand; a collection over a hundred thousand of them would be felt
        ready()
        connection.serve(most_nodes=int(config.get("nodes", _MOST_NODES)))
        if trace is not None:
            trace.flush()
    except BaseException:
        _detach(target)
        raise
    return 0


def _serve_by_libfuse(config: Mapping[str, Any], target: str, ready: Callable[[], None]) -> int:
    from plugengine.errors import NotSupportedError

    from plugengine_fuse_union.fusepy_transport import serve_by_libfuse
    from plugengine_fuse_union.libfuse import require_carried

    try:
        require_carried(config)
        union = _open_union(config)
        read_only = bool(config.get("read_only")) or union.stage is None
        return serve_by_libfuse(union, target, ready, read_only=read_only)
    except NotSupportedError as exc:
        sys.stderr.write(f"fuse_union: mount on {target}: {exc}\n")
        return 1


def _open_trace(config: Mapping[str, Any]) -> Trace | None:
    if not config.get("trace"):
        return None
    from plugengine_fuse_union.trace import Trace

    return Trace(str(config["trace"]))


def _watch(connection: Connection, trace: Trace | None) -> None:
    """Put what few mounts want before the handlers; others do not even load it."""
    if connection.union.quota is not None:
        from plugengine_fuse_union.quota_requests import QuotaRequests

        QuotaRequests(connection, connection.union.quota).install()
    if trace is not None:
        from plugengine_fuse_union.trace import install_trace

        install_trace(connection, trace)


def _share_counters(connection: Connection, config: Mapping[str, Any]) -> None:
    if config.get("note"):
        try:
            connection.counters = shared_counters(str(config["note"]))
        except OSError:
            pass  # the disk is full: without statistics, but the container starts


def _mount(config: Mapping[str, Any], target: str) -> Connection:
    union = _open_union(config)
    fd = open_fuse()
    flags = int(config.get("flags", 0)) | (MS_RDONLY if config.get("read_only") or union.stage is None else 0)
    options = (*_MOUNT_OPTIONS, *config.get("mount_options", ()))
    source, subtype = str(config.get("source", _SUBTYPE)), str(config.get("subtype", _SUBTYPE))
    mount_fuse(target, fd, options=options, flags=flags, source=source, subtype=subtype)
    return Connection(fd, union)


def _open_union(config: Mapping[str, Any]) -> Union:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    upper, work = config.get("upper"), config.get("work")
    union = Union(
        [os.fsencode(path) for path in config["lowers"]],
        None if upper is None else os.fsencode(upper),
        None if work is None else os.fsencode(work),
        owners=_owners(config.get("user_map")),
        descriptor_limit=int(config.get("directories", min(hard // _DIRECTORY_SHARE, _MOST_DIRECTORIES))),
        durable=bool(config.get("durable", True)),
    )
    union.whiteout_files = bool(config.get("whiteout_files", False))
    union.metacopy = bool(config.get("metacopy", False))
    union.follows = union.metacopy or bool(config.get("follow", False))
    if config.get("size") and union.stage is not None:
        from plugengine_fuse_union.quota import open_quota

        union.quota = open_quota(int(config["size"]), os.fsencode(str(upper)))
    return union


def _owners(user_map: Mapping[str, Iterable[Iterable[int]]] | None) -> Owners | None:
    if user_map is None:
        return None
    return Owners(_ranges(user_map["uids"]), _ranges(user_map["gids"]))


def _ranges(rows: Iterable[Iterable[int]]) -> list[Range]:
    found = []
    for row in rows:
        guest, host, size = row
        found.append((guest, host, size))
    return found


def _register(connection: Connection, *, most_backed: int = _MOST_BACKED) -> None:
    handles = Handles(connection, most_backed=most_backed)
    connection.register(NameRequests(connection).handlers())
    connection.register(AttributeRequests(connection).handlers())
    connection.register(DirectoryRequests(connection).handlers())
    connection.register(FileRequests(connection, handles).handlers())
    connection.register(IoctlRequests(connection).handlers())


def _detach_on_signal(target: str) -> None:
    """On SIGTERM detach the mount; serving ends by itself when the last file below it is closed, or soon."""

    def stop(number: int, frame: FrameType | None) -> None:
        _detach(target)
        signal.alarm(_GRACE_S)

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # of a lease that ends by itself; see `restless`


def _detach(target: str) -> None:
    try:
        umount2(target, MNT_DETACH)
    except OSError as exc:
        # EINVAL and ENOENT: it is unmounted already.
        if exc.errno not in {errno.EINVAL, errno.ENOENT}:
            sys.stderr.write(f"fuse_union: unmount {target}: {exc.strerror}\n")

"""Storage driver `fuse_overlayfs`: the program fuse-overlayfs, written in C, is the container's file server."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable
from typing import Final

from plugengine.errors import DriverError, NoSpaceError
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.model import (
    DriverInfo,
    Host,
    HostPath,
    Option,
    OptionKind,
    Record,
    Rootfs,
    Server,
    StorageRequest,
    Usage,
)
from plugengine.trees.remove import remove_tree
from plugengine.trees.upper import usage
from plugengine_fuse_overlayfs.deviations import DEVIATIONS

PROGRAM: Final = "fuse-overlayfs"
_DEVICE: Final = "/dev/fuse"
_UPPER: Final = "upper"
_UNFINISHED: Final = "upper.new"  # until the upper directory has all of the image's root
_WORK: Final = "work"
_EMPTY: Final = "empty"  # the program wants a lower directory, also for a container without layers
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)

_OPTIONS: Final = (
    Option(
        name="threaded",
        kind=OptionKind.FLAG,
        default="off",
        help="on: requests are answered by several threads",
    ),
    Option(
        name="fsync",
        kind=OptionKind.FLAG,
        default="on",
        help="off: fsync does nothing; quicker, and a power cut may lose anything",
    ),
)
# No NATIVE_DIFF: beside each opaque mark the program leaves files named .wh..opq and .wh..wh..opq, which a commit would
# take for the container's.
_INFO: Final = DriverInfo(
    api_version=API_VERSION,
    summary="the program fuse-overlayfs, in C",
    options=_OPTIONS,
    deviations=DEVIATIONS,
)


@hookimpl
def pe_storage_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_storage_probe(host: Host) -> Iterable[str]:
    """Return why this host cannot run it."""
    reasons = [] if os.geteuid() == 0 else ["mounting needs CAP_SYS_ADMIN: run as root"]
    if shutil.which(PROGRAM) is None:
        reasons.append(f"the program {PROGRAM} is not in PATH: install the package of that name")
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        reasons.append(f"{_DEVICE} cannot be opened: try `modprobe fuse`")
    if ":" in host.root:
        reasons.append(f"{host.root}: {PROGRAM} cannot write to a directory with a colon in its name: move --root")
    return reasons


@hookimpl
def pe_storage_prepare(request: StorageRequest) -> Record:
    """Make the upper and the work directory."""
    try:
        for name in (_WORK, _EMPTY):
            os.makedirs(f"{request.directory}/{name}", 0o700, exist_ok=True)
        _make_upper(request)
    except OSError as exc:
        pe_storage_remove(request, None)
        kind = NoSpaceError if exc.errno in _NO_SPACE else DriverError
        raise kind(f"prepare container {request.container_id}: {exc.filename}: {exc.strerror}") from exc
    except BaseException:
        pe_storage_remove(request, None)
        raise
    return {}


@hookimpl
def pe_storage_mounts(request: StorageRequest, record: Record) -> Rootfs:
    """Return the server: a process of the engine that runs the program as its child."""
    config: dict[str, object] = {
        "target": request.target,
        "lowers": list(dict.fromkeys(reversed(request.chain))) or [f"{request.directory}/{_EMPTY}"],
        "upper": f"{request.directory}/{_UPPER}",
        "work": f"{request.directory}/{_WORK}",
        "read_only": request.read_only,
        "threaded": request.options["threaded"],
        "fsync": request.options["fsync"],
    }
    return Rootfs(server=Server(entry="plugengine_fuse_overlayfs.server:serve", config=config))


@hookimpl
def pe_storage_usage(request: StorageRequest, record: Record) -> Usage:
    """Return the space of the upper directory."""
    return usage(HostPath(f"{request.directory}/{_UPPER}"))


@hookimpl
def pe_storage_remove(request: StorageRequest, record: Record | None) -> None:
    """Remove what prepare made."""
    for name in (_UPPER, _UNFINISHED, _WORK, _EMPTY):
        remove_tree(f"{request.directory}/{name}")


def _make_upper(request: StorageRequest) -> None:
    """Make the upper directory, complete or not at all, with what the image's root has: it is what is seen of it."""
    upper, unfinished = f"{request.directory}/{_UPPER}", f"{request.directory}/{_UNFINISHED}"
    if os.path.isdir(upper):
        return
    os.makedirs(unfinished, exist_ok=True)
    os.chmod(unfinished, 0o755)
    if request.chain:
        source = request.chain[-1]
        found = os.stat(source)
        os.chown(unfinished, found.st_uid, found.st_gid)
        os.chmod(unfinished, stat.S_IMODE(found.st_mode))
        for name in os.listxattr(source):
            if not name.startswith("trusted.overlay."):
                os.setxattr(unfinished, name, os.getxattr(source, name))
        os.utime(unfinished, ns=(found.st_atime_ns, found.st_mtime_ns))
    os.rename(unfinished, upper)

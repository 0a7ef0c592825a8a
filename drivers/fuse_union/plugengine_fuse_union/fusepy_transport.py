"""The union on libfuse 2, by fusepy and its path interface, for hosts where /dev/fuse cannot be mounted directly.

What libfuse 2.9 does not carry, and `devfuse` does:

* no flags of renameat2(2) (EINVAL), no O_TMPFILE (EOPNOTSUPP), no fallocate(2) (EOPNOTSUPP; posix_fallocate(3) writes
  zeros instead), no ioctl, so no chattr(1), no time of birth;
* no POSIX ACLs (EOPNOTSUPP): the kernel would not heed them; a default ACL of a layer's directory is still handed on;
* holes are not told (SEEK_HOLE is the end of the file), copy_file_range(2) and sendfile(2) go through the kernel;
* names of one file are inodes of their own for the kernel: `st_ino` and content are one, but what is mapped with
  MAP_SHARED by one name is seen by another only after msync(2), and flock(2) and fcntl(2) locks by different names do
  not see each other. Attributes are never cached for that reason, so each stat(2) is a request;
* the umask is applied also below a directory with a default ACL;
* a file that is replaced while it is open loses its name one step before the new one takes it, so when the move fails
  for lack of space the name is gone; and a rename, inside, of an open file to `.fuse_hidden` and 16 hexadecimal digits
  removes it, for that is how libfuse says that an open file was removed.
"""

from __future__ import annotations

import errno
import gc
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from plugengine_fuse_union.complaints import Complaints
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.libfuse import load
from plugengine_fuse_union.path_operations import PathOperations
from plugengine_fuse_union.replies import FOREVER

if TYPE_CHECKING:
    from plugengine_fuse_union.union import Union

_NAME: Final = "fuse_union"
# Names change only through the server; attributes also by another name of a linked file.
_OPTIONS: Final = {
    "fsname": _NAME,
    "subtype": _NAME,
    "entry_timeout": FOREVER,
    "negative_timeout": FOREVER,
    "attr_timeout": 0,
    "allow_other": True,
    "default_permissions": True,
    "use_ino": True,
    "big_writes": True,
    "atomic_o_trunc": True,
    "nonempty": True,
    # libfuse mounts nodev,nosuid where it is not told otherwise
    "dev": True,
    "suid": True,
}
# Answers that mean trouble on this side, not a mistake of the caller.
_WORTH_A_LINE: Final = frozenset({errno.EIO, errno.EBADF, errno.EMFILE, errno.ENFILE, errno.EFAULT})


def serve_by_libfuse(union: Union, target: str, ready: Callable[[], None], *, read_only: bool) -> int:
    """Mount a union by libfuse and serve it in this thread until it is unmounted or SIGTERM comes.

    Args:
        union: What to serve.
        target: Mount point.
        ready: Called once when the mount can be used.
        read_only: Mount it read-only.

    Returns:
        The exit code of the process.

    Raises:
        NotSupportedError: fusepy or libfuse is missing.
    """
    fuse = load()
    operations = _Requests(union, fuse, ready)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # libfuse installs its own handler where there is none
    try:
        fuse.FUSE(
            operations,
            target.encode(sys.getfilesystemencoding(), "surrogateescape").decode("latin-1"),
            raw_fi=True,
            encoding="latin-1",
            foreground=True,
            nothreads=True,
            ro=read_only,
            **_OPTIONS,
        )
    except RuntimeError:
        # libfuse also returns an error when a signal ended it, after unmounting.
        if not operations.started:
            sys.stderr.write(f"fuse_union: mount on {target} by libfuse: see above\n")
            return 1
    return 1 if operations.failed else 0


class _Requests(PathOperations):
    """Calls the operations, so that nothing that goes wrong in one reaches libfuse as more than an errno."""

    def __init__(self, union: Union, fuse: Any, ready: Callable[[], None]) -> None:
        super().__init__(union, fuse.fuse_get_context)
        self._fuse = fuse
        self._ready = ready
        self._complaints = Complaints()
        self.started = False
        self.failed = False

    def __call__(self, operation: str, *args: Any) -> Any:
        try:
            return getattr(self, operation)(*args)
        except OSError as exc:
            if exc.errno is None or exc.errno in _WORTH_A_LINE:
                self._complain(operation, args, exc)
            raise refused(exc.errno or errno.EIO) from None
        except Exception as exc:  # noqa: BLE001 - whatever goes wrong in one request must not end the others
            self._complain(operation, args, exc)
            raise refused(errno.EIO) from None
        finally:
            self.paths.settle()
            self.union.stale.clear()  # the kernel keeps no attributes
            if self.union.descriptors.is_full:
                self.union.descriptors.trim()

    def init(self, _path: str) -> None:
        """Say that the mount is there: the kernel has asked for the first time."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.started = True
        gc.freeze()
        try:
            self._ready()
        except Exception as exc:  # noqa: BLE001 - an exception would not end libfuse
            self._complain("init", (), exc)
            self.failed = True
            self._fuse.fuse_exit()

    def _complain(self, operation: str, args: tuple[Any, ...], exc: Exception) -> None:
        self._complaints.add(operation, next((arg for arg in args if isinstance(arg, str)), "?"), exc)

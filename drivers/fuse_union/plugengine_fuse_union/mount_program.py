"""The command `pe-fuse-union`: mount a union and serve it in a process of its own; see docs/mount-program.md."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
import syslog
import time
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, TextIO, cast

from plugengine.errors import DriverError, PlugengineError, UsageError
from plugengine.kernel import credentials, files
from plugengine.kernel.mount import MS_RDONLY, MS_REMOUNT, mount
from plugengine.kernel.mountinfo import mount_of
from plugengine.trees.whiteouts import STEERING, TAR_OPAQUE, YES

from plugengine_fuse_union.mount_options import (
    CommandLine,
    MountOptions,
    changed_flags,
    is_remount,
    parse_options,
    parse_words,
)
from plugengine_fuse_union.server import serve

NAME: Final = "pe-fuse-union"
USAGE: Final = f"""\
usage: {NAME} [-f] [SOURCE] MOUNTPOINT -o lowerdir=TOP:...:BOTTOM[,upperdir=UPPER,workdir=WORK][,OPTION...]

Mount a union of directories on MOUNTPOINT. Without upperdir it is read-only. The process goes to the background
once it is mounted and ends when it is unmounted.

  -f, --foreground   stay in the foreground; Ctrl-C unmounts
  -o OPTIONS         as for the kernel's overlayfs; a backslash escapes : and , in paths
  -h, -V             this text; the version
"""
# mount(8), "EXIT STATUS"
_INCORRECT_USE: Final = 1
_MOUNT_FAILED: Final = 32
_FIRST_FREE: Final = 3
_IN_USE_DEADLINE_S: Final = 2.0
_IN_USE_PAUSE_S: Final = 0.01
_MOUNTED: Final = b"+"
_PROBE: Final = STEERING + "pe_probe"


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Run the command with the arguments of this process, and exit with its exit code."""
    try:
        code = _run(parse_words(sys.argv[1:] if words is None else words))
    except PlugengineError as exc:
        hint = f"\n{NAME}: {exc.hint}" if exc.hint else ""
        sys.stderr.write(f"{NAME}: {exc}{hint}\n")
        code = _INCORRECT_USE if isinstance(exc, UsageError) else _MOUNT_FAILED
    sys.exit(code)


def _run(line: CommandLine) -> int:
    if line.target is None:
        sys.stdout.write(_version() if line.show == "version" else USAGE)
        return 0
    # What the caller has open, say a lock, must not stay open as long as the mount.
    files.close_range(_FIRST_FREE)
    if os.geteuid() != 0:
        raise DriverError(f"mount on {line.target}: {os.strerror(errno.EPERM).lower()}", hint="root is needed")
    if is_remount(line.options):
        _remount(line.target, line.options)
        return 0
    options = parse_options(line.options)
    config = server_config(line.target, line.source, options)
    if options.work is not None and options.upper is not None:
        _check_work(str(config["upper"]), str(config["work"]))
        _take_work(str(config["work"]))
    os.chdir("/")  # the caller's directory may be needed elsewhere, or be the mount point
    credentials.set_name(NAME.encode())
    if line.foreground:
        return _MOUNT_FAILED if serve(config, _end_on_interrupt) else 0
    return _in_background(lambda ready: serve(config, ready))


def _remount(target: str, text: str) -> None:
    """Change the flags of a mount that is there, as mount(8) asks for with `-o remount`; the layers stay."""
    place = os.path.realpath(target)
    there = mount_of(place)
    if there is None or there.mount_point != place or there.fstype != f"fuse.{NAME}":
        raise UsageError(f"remount {target}: no mount of {NAME} is there")
    flags = changed_flags(",".join(there.options), 0)
    try:
        mount("none", place, "", MS_REMOUNT | changed_flags(text, flags))
    except OSError as exc:
        raise DriverError(f"remount {target}: {exc.strerror}") from exc


def _version() -> str:
    from importlib.metadata import version  # takes longer than all the rest of a start

    return f"{NAME} {version('plugengine')}\n"


def server_config(target: str, source: str | None, options: MountOptions) -> dict[str, object]:
    """Return what `server.serve` is to do; paths become absolute, as the server changes its directory."""
    config: dict[str, object] = {
        "target": os.path.realpath(target),
        "source": source or NAME,
        "subtype": NAME,
        "lowers": _down_to_opaque([os.path.realpath(path) for path in options.lowers]),
        "upper": None if options.upper is None else os.path.realpath(options.upper),
        "work": None if options.work is None else os.path.realpath(options.work),
        "read_only": bool(options.flags & MS_RDONLY),
        "flags": options.flags,
        "mount_options": list(options.labels),
        "passthrough": options.passthrough,
        "durable": options.durable,
        "whiteout_files": True,
        "follow": options.follow,
        "metacopy": options.metacopy,
    }
    if options.size is not None:
        config["size"] = options.size
    if options.trace is not None:
        config["trace"] = os.path.realpath(options.trace)
    if options.uids:
        config["user_map"] = {"uids": options.uids, "gids": options.gids}
    return config


def _down_to_opaque(layers: list[str]) -> list[str]:
    """Return the layers without those that an opaque mark in the root of one above hides."""
    for index, layer in enumerate(layers):
        if os.path.lexists(os.path.join(layer, os.fsdecode(TAR_OPAQUE))):
            return layers[: index + 1]
    return layers


def _check_work(upper: str, work: str) -> None:
    """Refuse a work directory that renames cannot lead out of, that would be seen in the union, or takes no marks.

    Raises:
        DriverError: That is so, or one of the two is not there.
    """
    try:
        same = os.stat(upper).st_dev == os.stat(work).st_dev
    except OSError as exc:
        raise DriverError(f"mount: {exc.filename}: {(exc.strerror or '').lower()}") from exc
    if not same:
        raise DriverError(f"mount: workdir {work} is not on the filesystem of upperdir {upper}")
    if os.path.commonpath([upper, work]) in {upper, work}:
        raise DriverError(f"mount: workdir {work} and upperdir {upper}: one is in the other")
    try:
        os.setxattr(work, _PROBE, YES)
        os.removexattr(work, _PROBE)
    except OSError as exc:
        raise DriverError(
            f"mount: workdir {work}: trusted.* xattr: {(exc.strerror or '').lower()}",
            hint="root of the initial user namespace is needed, and a filesystem that holds such marks",
        ) from exc


def _take_work(work: str) -> None:
    """Lock the work directory for the life of this process and the server's: two would destroy each other's files.

    The server of a union just unmounted may take a moment to end.

    Raises:
        DriverError: It is in use.
    """
    fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + _IN_USE_DEADLINE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise DriverError(
                    f"mount: workdir {work}: in use by another union", hint="unmount that one first"
                ) from None
            time.sleep(_IN_USE_PAUSE_S)
        else:
            return


def _end_on_interrupt() -> None:
    """Let Ctrl-C do what SIGTERM does."""
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))


def _in_background(work: Callable[[Callable[[], None]], int]) -> int:
    """Fork the server; return once it has mounted or has ended without."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        os.setsid()

        def ready() -> None:
            _leave_streams()
            os.write(write_end, _MOUNTED)
            os.close(write_end)

        sys.exit(work(ready))
    os.close(write_end)
    if os.read(read_end, len(_MOUNTED)) == _MOUNTED:
        return 0
    os.waitpid(pid, 0)
    return _MOUNT_FAILED


def _leave_streams() -> None:
    """Put /dev/null in place of the caller's streams, whose other end may wait for us, and complain to syslog(3)."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in range(_FIRST_FREE):
        os.dup2(null, fd)
    os.close(null)
    syslog.openlog(NAME, syslog.LOG_PID | syslog.LOG_NDELAY, syslog.LOG_DAEMON)
    sys.stderr = cast(TextIO, _Syslog())


class _Syslog:
    """A text stream as far as `sys.stderr.write` and tracebacks need one."""

    def __init__(self) -> None:
        self._line = ""

    def write(self, text: str) -> int:
        """Send the lines that the text completes; tracebacks come in pieces."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            syslog.syslog(syslog.LOG_ERR, line)
        return len(text)

    def flush(self) -> None:
        """Do nothing: a line goes out when it is complete."""

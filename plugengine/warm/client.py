"""The `pe` script: run the command in a process forked from a prepared one, or else in this one.

Only modules that load in a fraction of a millisecond are imported at the top: everything here is paid by every command.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Mapping
    from typing import NoReturn

VARIABLE = "PLUGENGINE_WARM"
MAX_REQUEST = 1 << 20
MAX_PATH = 107  # sun_path of unix(7), without its end
# Passed on to the command; see signal(7). What stops or kills us is the kernel's.
_PASSED = (1, 2, 3, 10, 12, 15, 28)  # HUP INT QUIT USR1 USR2 TERM WINCH


def main() -> NoReturn:
    """Run `pe` with the arguments and environment of this process, and exit with its exit code."""
    _open_closed_streams()
    environ = os.environ
    if environ.get(VARIABLE) != "0" and os.geteuid() == 0:
        code = _run_warm(sys.argv[1:], environ)
        if code is not None:
            # Nothing of ours is to be flushed or freed; the exit of an interpreter costs a millisecond.
            os._exit(code)
    from plugengine import cli

    leave_behind = environ.get(VARIABLE) != "0" and os.geteuid() == 0
    code = 1
    try:
        code = cli.main(sys.argv[1:], environ=environ)
    finally:
        if leave_behind:
            from plugengine.warm.start import start_server

            start_server(sys.argv[1:], environ)
    sys.exit(code)


def _open_closed_streams() -> None:
    """Put /dev/null where a standard descriptor is closed: the next file opened would take its number."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 - for as long as we live


def address(argv: list[str], environ: Mapping[str, str], key: bytes) -> str:
    """Return where the prepared process for this kind of caller listens."""
    from binascii import crc32

    from plugengine.warm.key import run_root

    return os.path.join(run_root(argv, environ), f"warm-{crc32(key):08x}")


def _run_warm(argv: list[str], environ: Mapping[str, str]) -> int | None:
    """Return the exit code, or None when there is no prepared process for us."""
    import _socket

    from plugengine.warm.key import current

    key = current(environ)
    path = address(argv, environ, key)
    if len(path) > MAX_PATH:
        return None
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0)
    try:
        connection.connect(path)
        return _hand_over(connection, key, argv, environ)
    except OSError:
        return None
    finally:
        connection.close()


def _hand_over(connection: _socket.socket, key: bytes, argv: list[str], environ: Mapping[str, str]) -> int | None:
    import _socket

    if TYPE_CHECKING:
        import signal as _signal
    else:
        import _signal

    fields = [key, str(os.umask(0o077)).encode(), str(len(argv)).encode()]
    os.umask(int(fields[1]))
    fields += [os.fsencode(word) for word in argv]
    fields += [os.fsencode(f"{name}={value}") for name, value in environ.items()]
    request = b"\0".join(fields)
    directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    descriptors = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (0, 1, 2, directory))
    if len(request) > MAX_REQUEST:
        return None
    connection.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 2 * MAX_REQUEST)
    connection.sendmsg([request], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
    if connection.recv(1) != b"+":
        return None
    # From here on the command runs over there: nothing may run it a second time.
    for number in _PASSED:
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, lambda signum, _frame: _send(connection, signum))
    try:
        answer = connection.recv(16)
    except OSError:
        answer = b""
    if not answer:
        sys.stderr.write("pe: prepared process: was killed; what it did last is unknown\n")
        return 125
    return int(answer)


def _send(connection: _socket.socket, number: int) -> None:
    try:
        connection.send(b"%d" % number)
    except OSError:
        pass

"""The prepared process: imports what commands need, then forks one child for each."""

from __future__ import annotations

import fcntl
import gc
import io
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import BinaryIO, Final, NoReturn, cast

from plugengine.kernel import credentials
from plugengine.warm.client import MAX_REQUEST
from plugengine.warm.key import current
from plugengine.warm.sources import Sources

IDLE_S: Final = 60.0
_STOP_CHECK_S: Final = 5.0
_REQUEST_S: Final = 1.0  # a caller stopped in the middle of its request must not stop the others
_FDS: Final = struct.Struct("4i")
_CRED: Final = struct.Struct("3i")
# What no command of a container's life needs.
_LEFT_OUT: Final = ("plugengine.__main__", "plugengine.bench", "plugengine.testing", "plugengine.warm.server")
_OTHERS: Final = ("encodings.ascii", "sqlite3", "pluggy")


class Server:
    """Listens at one path until nobody has asked for a while."""

    def __init__(self, path: str, idle_s: float) -> None:
        self._path = path
        self._idle_s = idle_s
        self._key = current(os.environ)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._poll = select.poll()
        self._served: dict[int, Served] = {}  # by pidfd and by connection
        self._sources = Sources()
        self._inode = 0  # of our socket

    def run(self) -> None:
        """Serve; ends when idle, when its socket or its source files are replaced."""
        if not self._listen():
            return
        _import_all()
        preload_drivers()
        self._sources.watch()
        gc.collect()
        gc.freeze()
        self._poll.register(self._listener, select.POLLIN)
        idle = 0.0
        while idle < self._idle_s:
            wait = min(_STOP_CHECK_S, self._idle_s)
            events = self._poll.poll(wait * 1000)
            for fd, _event in events:
                self._ready(fd)
            idle = 0.0 if events or self._served else idle + wait
            if not self._served and not self._is_current():
                break
        try:
            if self._owns_path():
                os.unlink(self._path)
        except OSError:
            pass

    def _listen(self) -> bool:
        """Take the path, under a lock: of several that start at once, one stays."""
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.exists(self._path):
                probe = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                try:
                    probe.connect(self._path)
                except OSError:
                    os.unlink(self._path)
                else:
                    return False
                finally:
                    probe.close()
            old = os.umask(0o177)
            self._listener.bind(self._path)
            os.umask(old)
            self._inode = os.stat(self._path).st_ino
            self._listener.listen(256)
            os.unlink(f"{self._path}.lock")
            return True
        finally:
            os.close(lock)

    def _owns_path(self) -> bool:
        """Tell whether the socket at our path is still the one we made."""
        try:
            return os.stat(self._path).st_ino == self._inode
        except OSError:
            return False

    def _is_current(self) -> bool:
        return self._owns_path() and not self._sources.changed()

    def _ready(self, fd: int) -> None:
        if fd == self._listener.fileno():
            self._accept()
            return
        served = self._served.get(fd)
        if served is None:
            return
        if fd == served.pidfd:
            self._forget(served)
            served.finish()
        elif not served.receive():
            self._poll.unregister(fd)
            self._served.pop(fd, None)

    def _accept(self) -> None:
        """Take one request; whatever is wrong with it or its caller ends the connection, never the server."""
        connection, _address = self._listener.accept()
        connection.settimeout(_REQUEST_S)
        descriptors: tuple[int, ...] = ()
        served: Served | None = None
        try:
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CRED.size)
            if _CRED.unpack(peer)[1] != os.geteuid():
                return
            request, descriptors = _receive_request(connection)
            fields = request.split(b"\0")
            if fields[0] == self._key and len(descriptors) == 4 and self._is_current():
                served = self._fork(connection, fields, descriptors)
        except OSError:
            return  # the caller is gone, or there can be no more processes: it sees the end of the connection
        finally:
            for fd in descriptors:
                os.close(fd)
            if served is None:
                connection.close()
        if served is not None:
            for fd in (served.pidfd, connection.fileno()):
                self._served[fd] = served
                self._poll.register(fd, select.POLLIN)

    def _fork(self, connection: socket.socket, fields: list[bytes], descriptors: tuple[int, ...]) -> Served:
        me = os.getpid()
        # Before the fork: a caller that has not seen this runs the command itself.
        connection.send(b"+")
        pid = os.fork()
        if pid == 0:
            self._serve(connection, fields, descriptors, server=me)
        return Served(connection, pid)

    def _forget(self, served: Served) -> None:
        for fd in (served.pidfd, served.connection.fileno()):
            if self._served.pop(fd, None) is not None:
                self._poll.unregister(fd)

    def _serve(
        self, connection: socket.socket, fields: list[bytes], descriptors: tuple[int, ...], *, server: int
    ) -> NoReturn:
        """Be the command, in the forked child."""
        code = 1
        try:
            # Nobody would pass signals on, nor tell the caller how it ended; he is told that it was killed.
            credentials.set_pdeathsig(signal.SIGKILL)
            if os.getppid() != server:
                os._exit(code)
            self._listener.close()
            for served in self._served.values():
                served.connection.close()
                try:
                    os.close(served.pidfd)
                except OSError:
                    continue
            count = int(fields[2])
            argv = [os.fsdecode(word) for word in fields[3 : 3 + count]]
            _become(descriptors, int(fields[1]), fields[3 + count :])
            sys.argv = ["pe", *argv]
            code = _command()(argv)
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else (0 if exc.code is None else 1)
        except BaseException:  # noqa: BLE001 - the last frame of this process
            import traceback

            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except (OSError, ValueError):
                    pass
            _tell(connection, code)  # the caller need not wait until all this memory is freed
            os._exit(code)


class Served:
    """One command: the process it runs in, and the client that waits for it."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.connection = connection
        self.pid = pid
        self.pidfd: int = os.pidfd_open(pid)

    def receive(self) -> bool:
        """Pass a signal on; a client that is gone takes its command along. False at the end."""
        try:
            message = self.connection.recv(16)
        except OSError:
            message = b""
        number = int(message) if message.isdigit() else signal.SIGKILL
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass
        return bool(message)

    def finish(self) -> None:
        """Reap the process and tell its exit code."""
        result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        code = 1
        if result is not None:
            code = result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status
        _tell(self.connection, code)
        self.connection.close()
        os.close(self.pidfd)


def _tell(connection: socket.socket, code: int) -> None:
    """Tell the caller the exit code; one that knows it, or is gone, does not listen."""
    try:
        connection.send(b"%d" % code)
    except OSError:
        pass


def _receive_request(connection: socket.socket) -> tuple[bytes, tuple[int, ...]]:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * MAX_REQUEST)
    data, ancillary, _flags, _address = connection.recvmsg(MAX_REQUEST, socket.CMSG_SPACE(_FDS.size))
    descriptors: tuple[int, ...] = ()
    for _level, _kind, content in ancillary:
        count = len(content) // 4
        descriptors = struct.unpack(f"{count}i", content[: count * 4])
    return data, descriptors


def _become(descriptors: tuple[int, ...], umask: int, environ: list[bytes]) -> None:
    """Take the caller's descriptors, directory, umask and environment."""
    for target, fd in enumerate(descriptors[:3]):
        os.dup2(fd, target)
    os.fchdir(descriptors[3])
    for fd in descriptors:
        os.close(fd)
    os.umask(umask)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.environ.clear()
    for item in environ:
        name, _, value = item.partition(b"=")
        os.environb[name] = value
    sys.stdin = _text(0, "r")
    sys.stdout = _text(1, "w")
    sys.stderr = _text(2, "w")


def _text(fd: int, mode: str) -> io.TextIOWrapper:
    """Open a standard stream as the interpreter does at its start."""
    interactive = os.isatty(fd)
    raw = io.FileIO(fd, mode, closefd=False)
    errors = "backslashreplace" if fd == 2 else "surrogateescape"
    if mode == "w" and os.environ.get("PYTHONUNBUFFERED"):
        return io.TextIOWrapper(cast(BinaryIO, raw), errors=errors, write_through=True)
    buffer: io.BufferedReader | io.BufferedWriter = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, errors=errors, line_buffering=interactive or fd == 2)


def _command() -> Callable[[list[str]], int]:
    from plugengine import cli

    return lambda argv: int(cli.main(argv, environ=os.environ) or 0)


def _import_all() -> None:
    """Import every module of the engine, and what these import where they use it."""
    import importlib
    import pkgutil

    import plugengine

    for name in _OTHERS:
        importlib.import_module(name)
    for part in pkgutil.walk_packages(plugengine.__path__, "plugengine.", onerror=lambda _name: None):
        if not part.name.startswith(_LEFT_OUT):
            try:
                importlib.import_module(part.name)
            except Exception:  # noqa: BLE001, S112 - the command that needs it will say so
                continue


def preload_drivers() -> None:
    """Import the drivers of the engine's own distribution; those of others are loaded by who chooses them."""
    from plugengine.errors import PlugengineError
    from plugengine.hookmarks import PROJECT
    from plugengine.plugins.registry import GROUPS, Registry

    registry = Registry()
    for group in GROUPS:
        for entry in registry.entries(group):
            if entry.distribution == PROJECT:
                try:
                    _import_parts(registry.load(group, entry.name))
                except PlugengineError:
                    continue


def _import_parts(package: object) -> None:
    """Import the modules of a driver's package, which it would import when it is used."""
    import importlib
    import pkgutil

    for part in pkgutil.iter_modules(getattr(package, "__path__", ())):
        try:
            importlib.import_module(f"{getattr(package, '__name__', '')}.{part.name}")
        except Exception:  # noqa: BLE001, S112 - the command that needs it will say so
            continue


def main(path: str) -> None:
    """Serve at `path`; PLUGENGINE_WARM may hold the idle time in seconds."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(sys.executable)  # it was the directory of this file, whose names are no modules
    credentials.set_name(b"pe-warm")
    text = os.environ.get("PLUGENGINE_WARM", "")
    Server(path, float(text) if text.replace(".", "", 1).isdigit() else IDLE_S).run()


if __name__ == "__main__":
    main(sys.argv[1])

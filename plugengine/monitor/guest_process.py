"""One process of the container as the monitor holds it: its stdio, its clients, its end."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Final

from plugengine.errors import StateError
from plugengine.monitor.loop import READ, WRITE, Loop
from plugengine.streams import wire
from plugengine.streams.logs import LogWriter

CHUNK: Final = 64 << 10
HIGH_WATER: Final = 1 << 20  # a client or a stdin this far behind stops the flow, as a pipe would
_STREAM: Final = {wire.STDOUT: "stdout", wire.STDERR: "stderr"}
_HANGUP: Final = select.EPOLLHUP | select.EPOLLERR


class Client:
    """One connection; `target` is the process whose streams it carries, if any."""

    def __init__(self, loop: Loop, connection: socket.socket, request: Callable[[Client, bytes], None]) -> None:
        connection.setblocking(False)
        self._loop = loop
        self._connection = connection
        self._decoder = wire.Decoder()
        self._out = bytearray()
        self._request = request
        self._reading = True
        self._closing = False
        self.target: GuestProcess | None = None
        self.owns_stdin = False
        self.closed: bool = False
        self._watch()

    @property
    def backlog(self) -> int:
        """Return the bytes not yet taken by the peer."""
        return len(self._out)

    def send(self, frame: bytes) -> None:
        """Queue one frame and write what the socket takes now."""
        if self.closed:
            return
        self._out += frame
        self._flush()

    def pause(self, *, reading: bool) -> None:
        """Stop or resume taking frames from the peer."""
        if self._reading != reading and not self.closed:
            self._reading = reading
            self._watch()

    def finish(self) -> None:
        """Close once everything queued is written."""
        self._closing = True
        if not self._out:
            self.close()

    def close(self) -> None:
        """Close now; the process attached to lives on."""
        if self.closed:
            return
        self.closed = True
        self._loop.forget(self._connection.fileno())
        self._connection.close()
        target, self.target = self.target, None
        if target is not None:
            target.detach(self)

    def _watch(self) -> None:
        events = (READ if self._reading else 0) | (WRITE if self._out else 0)
        self._loop.watch(self._connection.fileno(), events, self._ready)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if not self.closed and (events & READ or events & _HANGUP):
            self._receive()

    def _flush(self) -> None:
        try:
            while self._out:
                sent = self._connection.send(self._out)
                del self._out[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()
            self.close()
            return
        if not self._out and self._closing:
            self.close()
            return
        self._watch()
        if self.target is not None:
            self.target.drained()

    def _receive(self) -> None:
        try:
            data = self._connection.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            for kind, payload in self._decoder.feed(data):
                if kind == wire.STDIN and self.target is not None:
                    self.target.feed(self, payload)
                elif kind == wire.REQUEST:
                    self._request(self, payload)
        except StateError:
            self.close()


class GuestProcess:
    """A process in the container: the first one, or one of `exec`.

    Args:
        loop: Serves the descriptors, which this object owns from now on.
        pid: Its pid on the host.
        pidfd: Readable when it has ended; see pidfd_open(2).
        stdin: Where it reads from, or None.
        outputs: What it writes, by descriptor: STDOUT, STDERR; the pty's master is STDOUT (and stdin).
        tty: Whether stdin and the output are a pty's master.
        log: Where output is kept, or None.
        ended: Called once with the exit code (128+n for signal n) after the output is drained.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        pid: int,
        pidfd: int,
        stdin: int | None,
        outputs: dict[int, int],
        tty: bool,
        log: LogWriter | None,
        ended: Callable[[GuestProcess], None],
    ) -> None:
        self._loop = loop
        self.pid = pid
        self.pidfd = pidfd
        self.tty = tty
        self.exit_code: int | None = None
        self.exec_id: str | None = None
        self._stdin = stdin
        self._stdin_queue = bytearray()
        self._outputs = outputs
        self._log = log
        self._ended = ended
        self._paused = False
        self.clients: list[Client] = []
        for fd in {*outputs, *([stdin] if stdin is not None else [])}:
            os.set_blocking(fd, False)
        for fd in outputs:
            loop.watch(fd, READ, self._reader(fd))
        loop.watch(pidfd, READ, self._reap)

    # --- clients -------------------------------------------------------------------------------------------

    def attach(self, client: Client, *, owns_stdin: bool) -> None:
        """Send this process's output to `client`, and take its STDIN frames."""
        client.target = self
        client.owns_stdin = owns_stdin
        self.clients.append(client)

    def detach(self, client: Client) -> None:
        """Forget a client; the one that owns stdin ends it, as the last writer of a pipe would."""
        if client in self.clients:
            self.clients.remove(client)
        if client.owns_stdin and not self.tty:
            self._end_stdin()
        self.drained()

    def signal(self, number: int) -> None:
        """Send a signal; one that has ended is fine."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass

    def resize(self, rows: int, columns: int) -> None:
        """Set the pty's size; without a pty nothing happens."""
        if self.tty and self._stdin is not None:
            from plugengine.kernel import tty

            tty.set_window_size(self._stdin, rows, columns)

    # --- stdin ---------------------------------------------------------------------------------------------

    def feed(self, client: Client, data: bytes) -> None:
        """Take input of a client; empty data is its end."""
        if not data:
            if not self.tty:
                self._end_stdin()
            return
        if self._stdin is None:
            return
        self._stdin_queue += data
        self._write_stdin()
        if len(self._stdin_queue) > HIGH_WATER:
            client.pause(reading=False)

    def _end_stdin(self) -> None:
        if self._stdin is None or self._stdin in self._outputs:
            return
        if self._stdin_queue:
            self._loop.watch(self._stdin, WRITE, lambda _events: self._write_stdin(then_end=True))
            return
        self._loop.forget(self._stdin)
        os.close(self._stdin)
        self._stdin = None

    def _write_stdin(self, *, then_end: bool = False) -> None:
        fd = self._stdin
        if fd is None:
            return
        try:
            while self._stdin_queue:
                written = os.write(fd, self._stdin_queue[:CHUNK])
                del self._stdin_queue[:written]
        except BlockingIOError:
            if fd in self._outputs:
                self._loop.watch(fd, READ | WRITE, self._reader(fd))
            else:
                self._loop.watch(fd, WRITE, lambda _events: self._write_stdin(then_end=then_end))
            return
        except OSError:  # EPIPE, EIO: nobody reads any more
            self._stdin_queue.clear()
            then_end = True
        for client in self.clients:
            client.pause(reading=True)
        if fd in self._outputs and not self._paused:
            self._loop.watch(fd, READ, self._reader(fd))
        elif then_end and fd not in self._outputs:
            self._end_stdin()
        else:
            self._loop.forget(fd)

    # --- output --------------------------------------------------------------------------------------------

    def _reader(self, fd: int) -> Callable[[int], None]:
        def ready(events: int) -> None:
            if events & WRITE:
                self._write_stdin()
            if events & (READ | _HANGUP) and fd in self._outputs:
                self._read(fd)

        return ready

    def _read(self, fd: int) -> bool:
        """Pass one chunk on; False at the end of the stream or when nothing is there now."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last slave of the pty is closed
            data = b""
        kind = self._outputs[fd]
        if not data:
            self._close_output(fd)
            return False
        if self._log is not None:
            self._log.write(_STREAM[kind], data)
        frame = wire.pack(kind, data)
        for client in list(self.clients):
            client.send(frame)
        if not self._paused and any(client.backlog > HIGH_WATER for client in self.clients):
            self._pause(paused=True)
        return True

    def drained(self) -> None:
        """Go on reading when no client is behind any more."""
        if self._paused and all(client.backlog <= HIGH_WATER for client in self.clients):
            self._pause(paused=False)

    def _pause(self, *, paused: bool) -> None:
        self._paused = paused
        for fd in self._outputs:
            if paused:
                self._loop.forget(fd)
            else:
                self._loop.watch(fd, READ, self._reader(fd))

    def _close_output(self, fd: int) -> None:
        self._loop.forget(fd)
        del self._outputs[fd]
        if fd == self._stdin:
            self._stdin = None
        os.close(fd)

    # --- end -----------------------------------------------------------------------------------------------

    def _reap(self, _events: int) -> None:
        result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return
        code = result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status
        self._loop.forget(self.pidfd)
        self.exit_code = code
        self._ended(self)

    def drain(self) -> None:
        """Read what the process left in its pipes, then close everything but the clients."""
        for fd in list(self._outputs):
            while fd in self._outputs and self._read(fd):
                pass
        for fd in list(self._outputs):
            self._close_output(fd)
        if self._stdin is not None:
            self._stdin_queue.clear()
            self._end_stdin()
        os.close(self.pidfd)
        if self._log is not None:
            self._log.close()

"""The client's end of a container's streams: terminal, pipes, signals, detach keys, exit code."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from plugengine import errors
from plugengine.errors import PlugengineError, StateError, UsageError
from plugengine.streams import wire

CHUNK: Final = 64 << 10
_HIGH_WATER: Final = 1 << 20
DEFAULT_DETACH_KEYS: Final = "ctrl-p,ctrl-q"
# Not proxied: what the terminal or the kernel does to us alone, and what cannot be caught.
_NOT_PROXIED: Final = {
    signal.SIGCHLD,
    signal.SIGWINCH,
    signal.SIGURG,
    signal.SIGPIPE,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCONT,
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGALRM,
    signal.SIGPROF,
    signal.SIGVTALRM,
    signal.SIGTRAP,
}


class Outcome(Struct, frozen=True, kw_only=True):
    """How a session ended."""

    exit_code: int
    detached: bool = False
    oom_killed: bool = False
    error: str = ""
    not_removed: str = ""  # why a container that was to be removed at its end is still there


class Streams(Struct, frozen=True, kw_only=True):
    """The descriptors of the caller; None is not connected."""

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    detach_keys: str = DEFAULT_DETACH_KEYS
    proxy_signals: bool = True


def parse_detach_keys(text: str) -> bytes:
    """Return the bytes of "ctrl-p,ctrl-q" or "a,ctrl-["; empty text means none.

    Raises:
        UsageError: A key is not understood.
    """
    keys = bytearray()
    for key in filter(None, text.split(",")):
        control = key.lower().removeprefix("ctrl-")
        if len(key) == 1 and key.isascii():
            keys += key.encode()
        elif control != key.lower() and len(control) == 1 and control in "abcdefghijklmnopqrstuvwxyz@[\\]^_":
            keys.append(ord(control.upper()) & 0x1F)
        else:
            raise UsageError(
                f"detach keys {text}: {key} is not a key", hint="a letter, or ctrl- and one of a-z @ [ ] ^ _"
            )
    return bytes(keys)


class DetachScanner:
    """Holds back input that may be the beginning of the detach sequence."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return what goes on to the container, and whether the sequence is complete."""
        if not self._sequence:
            return data, False
        pending = self._held + data
        found = pending.find(self._sequence)
        if found >= 0:
            return pending[:found], True
        keep = next(
            (size for size in range(len(self._sequence) - 1, 0, -1) if pending.endswith(self._sequence[:size])), 0
        )
        self._held = pending[len(pending) - keep :]
        return pending[: len(pending) - keep], False


def raise_error(event: dict[str, Any]) -> None:
    """Raise the error a monitor reported, as the class it was there."""
    found = getattr(errors, str(event.get("class")), PlugengineError)
    kind = found if isinstance(found, type) and issubclass(found, PlugengineError) else PlugengineError
    raise kind(str(event.get("message")), hint=event.get("hint"))


def read_event(connection: socket.socket, *, log: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Wait for the next event or reply of a monitor, for callers without streams.

    Raises:
        StateError: The monitor went away.
    """
    decoder = wire.Decoder()
    while True:
        try:
            data = connection.recv(CHUNK)
        except ConnectionResetError:
            data = b""
        if not data:
            raise StateError("monitor: ended without a word", hint="pe system check shows what is left")
        for kind, payload in decoder.feed(data):
            if kind not in (wire.EVENT, wire.REPLY):
                continue
            event = wire.unpack_json(payload)
            if event.get("event") == "log":
                if log is not None:
                    log(str(event["text"]))
                continue
            return event


class Session:
    """Carries streams between the caller and one process of a container until one of them ends."""

    def __init__(
        self,
        connection: socket.socket,
        streams: Streams,
        *,
        tty: bool,
        log: Callable[[str], None] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._warn = warn
        self._connection = connection
        self._streams = streams
        self._tty = tty
        self._log = log
        self._decoder = wire.Decoder()
        self._out = bytearray()
        self._stdin: int | None = streams.stdin
        self._outcome: Outcome | None = None
        self._scanner = DetachScanner(parse_detach_keys(streams.detach_keys) if tty else b"")
        self._raw = tty and streams.stdin is not None and os.isatty(streams.stdin)

    def run(self) -> Outcome:
        """Serve until the process ends or the caller detaches; the terminal is put back as it was.

        Raises:
            PlugengineError: What the monitor reported: the command could not be started, and so on.
            StateError: The monitor went away.
        """
        saved: list[Any] | None = None
        if self._raw and self._stdin is not None:
            from plugengine.kernel import tty

            saved = tty.set_raw(self._stdin)
        signals = _Signals() if threading.current_thread() is threading.main_thread() else None
        try:
            if signals is not None:
                signals.open(proxy=self._streams.proxy_signals)
            if self._raw:
                self._send_size()
            return self._serve(signals)
        finally:
            if signals is not None:
                signals.close()
            if saved is not None and self._streams.stdin is not None:
                from plugengine.kernel import tty

                tty.restore(self._streams.stdin, saved)

    def _serve(self, signals: _Signals | None) -> Outcome:
        self._connection.setblocking(False)
        while self._outcome is None:
            poll = select.poll()
            socket_events = select.POLLIN | (select.POLLOUT if self._out else 0)
            poll.register(self._connection, socket_events)
            if self._stdin is not None and len(self._out) < _HIGH_WATER:
                poll.register(self._stdin, select.POLLIN)
            if signals is not None:
                poll.register(signals.reader, select.POLLIN)
            for fd, events in poll.poll():
                if signals is not None and fd == signals.reader:
                    self._pass_signals(signals)
                elif fd == self._connection.fileno():
                    self._exchange(events)
                elif fd == self._stdin:
                    self._take_input()
        return self._outcome

    def _exchange(self, events: int) -> None:
        if events & select.POLLOUT:
            self._flush()
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            try:
                data = self._connection.recv(CHUNK)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                raise StateError(
                    "monitor: ended before the container did", hint="pe inspect and pe system check show what is left"
                )
            for kind, payload in self._decoder.feed(data):
                self._take_frame(kind, payload)

    def _take_frame(self, kind: int, payload: bytes) -> None:
        if kind == wire.STDOUT:
            self._write(self._streams.stdout, payload)
        elif kind == wire.STDERR:
            self._write(self._streams.stderr, payload)
        elif kind == wire.EVENT:
            self._take_event(wire.unpack_json(payload))
        elif kind == wire.REPLY:
            reply = wire.unpack_json(payload)
            if reply.get("event") == "error":
                raise_error(reply)

    def _take_event(self, event: dict[str, Any]) -> None:
        name = event.get("event")
        if name == "error":
            raise_error(event)
        elif name == "log" and self._log is not None:
            self._log(str(event["text"]))
        elif name == "started" and self._warn is not None:
            for warning in event.get("warnings", ()):
                self._warn(str(warning))
        elif name == "exit":
            self._outcome = Outcome(
                exit_code=int(event["code"]),
                oom_killed=bool(event.get("oom_killed")),
                error=str(event.get("error") or ""),
                not_removed=str(event.get("not_removed") or ""),
            )

    def _write(self, fd: int | None, data: bytes) -> None:
        if fd is None:
            return
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                select.select([], [fd], [])
            except OSError as exc:
                if exc.errno not in (errno.EPIPE, errno.EIO):
                    raise PlugengineError(
                        f"write the container's output to descriptor {fd}: {exc.strerror}",
                        hint="the container runs on; pe logs has its output",
                    ) from exc
                # Nobody reads any more: leave, as a program in a pipe would (128 + SIGPIPE).
                self._outcome = Outcome(exit_code=128 + signal.SIGPIPE, detached=True)
                return

    def _take_input(self) -> None:
        assert self._stdin is not None  # noqa: S101 - polled only then
        try:
            data = os.read(self._stdin, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._stdin = None
            self._queue(wire.pack(wire.STDIN, b""))
            return
        passed, detached = self._scanner.feed(data) if self._tty else (data, False)
        if passed:
            self._queue(wire.pack(wire.STDIN, passed))
        if detached:
            self._outcome = Outcome(exit_code=0, detached=True)

    def _queue(self, frame: bytes) -> None:
        self._out += frame
        self._flush()

    def _flush(self) -> None:
        try:
            while self._out:
                sent = self._connection.send(self._out)
                del self._out[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()  # the end is seen by the next read

    def _pass_signals(self, signals: _Signals) -> None:
        for number in signals.take():
            if number == signal.SIGWINCH:
                if self._raw:
                    self._send_size()
            else:
                self._queue(wire.pack_json(wire.REQUEST, {"op": "signal", "signal": number}))

    def _send_size(self) -> None:
        if self._streams.stdin is None:
            return
        from plugengine.kernel import tty

        rows, columns = tty.get_window_size(self._streams.stdin)
        self._queue(wire.pack_json(wire.REQUEST, {"op": "resize", "rows": rows, "columns": columns}))


class _Signals:
    """Turns signals into bytes on a pipe, and puts the handlers back afterwards; see signal.set_wakeup_fd."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._old: dict[int, Any] = {}
        self._old_wakeup = -1

    def open(self, *, proxy: bool) -> None:
        """Take the signals over, but for those the caller ignores: `nohup`, and what a shell has in the background."""
        self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        wanted = {signal.SIGWINCH}
        if proxy:
            wanted |= {number for number in signal.valid_signals() if isinstance(number, signal.Signals)} - _NOT_PROXIED
        for number in wanted:
            if number < signal.SIGRTMIN and signal.getsignal(number) != signal.SIG_IGN:
                self._old[number] = signal.signal(number, lambda _number, _frame: None)

    def take(self) -> bytes:
        """Return the numbers of the signals that came."""
        try:
            return os.read(self.reader, 512)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Give the signals back."""
        for number, handler in self._old.items():
            if handler is not None:
                signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self.reader)
        os.close(self._writer)

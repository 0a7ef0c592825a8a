"""Both ends of the traffic of `pe bench net`: a script for any Python 3.8 or newer, which needs nothing of the engine.

    traffic.py server PORT
    traffic.py MODE HOST TCP_PORT UDP_PORT SECONDS

The modes print one number: stream and streams bytes a second, latency and latency-p99 seconds, connect connections a
second, packets datagrams received a second; ping just waits until there is an answer, and prints 0.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import time

_CHUNK = 128 << 10
_STREAMS = 4
_MESSAGE = b"x" * 64
_COUNT = struct.Struct("!Q")
_TIMEOUT_S = 15.0
_LAST_S = 0.1  # how long datagrams that are on their way are waited for
_PING_S = 10.0
_PING_PAUSE_S = 0.02
_P99 = 0.99
# The first byte of a connection.
_SINK, _ECHO, _CLOSE, _COUNT_PACKETS = b"SECU"


# --- the server --------------------------------------------------------------------------------------------


def serve(port: int) -> None:
    """Answer until killed: every connection in a process of its own, but for those that are only counted."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("", port))
    listening = socket.create_server(("", port), backlog=1024)
    while True:
        connection, _ = listening.accept()
        connection.settimeout(_TIMEOUT_S)
        try:
            mode = connection.recv(1)
            if mode and mode[0] != _CLOSE and os.fork() == 0:
                _answer(mode[0], connection, datagrams)
        except OSError:
            pass
        connection.close()


def _answer(mode: int, connection: socket.socket, datagrams: socket.socket) -> None:
    try:
        if mode == _SINK:
            _sink(connection)
        elif mode == _ECHO:
            _echo(connection)
        elif mode == _COUNT_PACKETS:
            _count(connection, datagrams)
    except OSError:
        pass
    finally:
        os._exit(0)


def _sink(connection: socket.socket) -> None:
    buffer = bytearray(_CHUNK)
    total = 0
    while got := connection.recv_into(buffer):
        total += got
    connection.sendall(_COUNT.pack(total))


def _echo(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := connection.recv(len(_MESSAGE)):
        connection.sendall(data)


def _count(connection: socket.socket, datagrams: socket.socket) -> None:
    datagrams.setblocking(False)
    _drain(datagrams)
    connection.sendall(b"r")
    total, ended = 0, False
    while True:
        ready = select.select([datagrams] if ended else [datagrams, connection], [], [], _LAST_S if ended else None)[0]
        if not ready:
            break
        if datagrams in ready:
            total += _drain(datagrams)
        if connection in ready:
            connection.recv(1)
            ended = True
    connection.sendall(_COUNT.pack(total))


def _drain(datagrams: socket.socket) -> int:
    total = 0
    try:
        while True:
            datagrams.recv(len(_MESSAGE))
            total += 1
    except BlockingIOError:
        return total


# --- the client --------------------------------------------------------------------------------------------


def ask(mode: str, host: str, port: int, udp_port: int, seconds: float) -> float:
    """Measure once and return the number."""
    if mode in ("stream", "streams"):
        return _streams(_STREAMS if mode == "streams" else 1, (host, port), seconds)
    if mode in ("latency", "latency-p99"):
        times = sorted(_round_trips((host, port), seconds))
        return times[int(len(times) * (_P99 if mode == "latency-p99" else 0.5))]
    if mode == "connect":
        return _connections((host, port), seconds)
    if mode == "packets":
        return _packets((host, port), (host, udp_port), seconds)
    if mode == "ping":
        return _ping((host, port))
    raise SystemExit(f"traffic: no mode {mode}")


def _connect(address: tuple[str, int], mode: int) -> socket.socket:
    connection = socket.create_connection(address, timeout=_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(bytes([mode]))
    return connection


def _streams(number: int, address: tuple[str, int], seconds: float) -> float:
    """Send from several processes; the time ends when the last byte has been taken."""
    connections = [_connect(address, _SINK) for _ in range(number)]
    begun = time.perf_counter()
    pipes = []
    for connection in connections:
        read_end, write_end = os.pipe()
        pipes.append(read_end)
        if os.fork() == 0:
            try:
                os.write(write_end, _COUNT.pack(_send(connection, begun + seconds)))
            finally:
                os._exit(0)
        os.close(write_end)
        connection.close()
    totals = [os.read(pipe, _COUNT.size) for pipe in pipes]
    passed = time.perf_counter() - begun
    if any(len(total) != _COUNT.size for total in totals):
        raise ConnectionError("a stream broke off")
    return float(sum(int(_COUNT.unpack(total)[0]) for total in totals) / passed)


def _send(connection: socket.socket, until: float) -> int:
    chunk = bytes(_CHUNK)
    while time.perf_counter() < until:
        connection.sendall(chunk)
    connection.shutdown(socket.SHUT_WR)
    return _receive_count(connection)


def _receive_count(connection: socket.socket) -> int:
    data = b""
    while len(data) < _COUNT.size:
        part = connection.recv(_COUNT.size - len(data))
        if not part:
            raise ConnectionError("the server went away")
        data += part
    return int(_COUNT.unpack(data)[0])


def _round_trips(address: tuple[str, int], seconds: float) -> list[float]:
    connection = _connect(address, _ECHO)
    times: list[float] = []
    until = time.perf_counter() + seconds
    while not times or time.perf_counter() < until:
        begun = time.perf_counter()
        connection.sendall(_MESSAGE)
        left = len(_MESSAGE)
        while left:
            got = len(connection.recv(left))
            if not got:
                raise ConnectionError("the server went away")
            left -= got
        times.append(time.perf_counter() - begun)
    return times


def _connections(address: tuple[str, int], seconds: float) -> float:
    total = 0
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        connection = _connect(address, _CLOSE)
        connection.recv(1)  # empty: the server has closed it
        connection.close()
        total += 1
    return total / (time.perf_counter() - begun)


def _packets(control: tuple[str, int], address: tuple[str, int], seconds: float) -> float:
    connection = _connect(control, _COUNT_PACKETS)
    connection.recv(1)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(address)
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        try:
            sender.send(_MESSAGE)
        except BlockingIOError:
            continue
    passed = time.perf_counter() - begun
    connection.sendall(b"e")
    return _receive_count(connection) / passed


def _ping(address: tuple[str, int]) -> float:
    until = time.monotonic() + _PING_S
    while True:
        try:
            connection = _connect(address, _ECHO)
            connection.sendall(_MESSAGE)
            if connection.recv(1):
                return 0.0
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(_PING_PAUSE_S)


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(int(sys.argv[2]))
    sys.stdout.write(f"{ask(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))}\n")

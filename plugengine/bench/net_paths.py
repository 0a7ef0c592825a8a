"""The lines `pe bench net` measures: between two containers of a driver, through a published port, on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from plugengine.bench.results import Column
from plugengine.engine import Engine
from plugengine.errors import PlugengineError
from plugengine.model import GuestPath, HostPath, Port
from plugengine.spec import ContainerSpec, ExecSpec, VolumeMount
from plugengine.streams.attach_client import Streams

IMAGE: Final = "host:python"
LOOPBACK: Final = "127.0.0.1"
SCRIPT: Final = HostPath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "traffic.py"))
_GUEST_SCRIPT: Final = GuestPath("/pe-bench-traffic.py")
_TIMEOUT_S: Final = 60
_TAIL: Final = 300


class Loopback:
    """Client and server as processes of the host: the limit."""

    def __init__(self, column: Column, port: int) -> None:
        self.column = column
        self._port = port
        self._server = subprocess.Popen(
            [sys.executable, SCRIPT, "server", str(port)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )

    def check(self) -> None:
        """Wait for the server. Raises: PlugengineError."""
        self.direct("ping", 0)

    def direct(self, mode: str, seconds: float) -> float:
        """Measure."""
        return ask_from_host([mode, LOOPBACK, str(self._port), str(self._port), str(seconds)])

    def close(self) -> None:
        """End the server."""
        self._server.kill()  # what it has forked ends with the namespace
        self._server.wait()


class Pair:
    """Two containers of one network driver; the second one serves.

    Args:
        column: Its column.
        engine: Makes them.
        network: What they join.
        port: The server's.
        shares_host: They stay in the host's network namespace.
        publishes: The driver publishes ports.

    Raises:
        PlugengineError: They cannot be started, or have no address; what was made is removed.
    """

    def __init__(
        self, column: Column, engine: Engine, network: str, port: int, *, shares_host: bool, publishes: bool
    ) -> None:
        self.column = column
        self.no_ports = ""  # why nothing is published, although the driver could
        self._engine = engine
        self._port = port
        self._made: list[str] = []
        self._published: tuple[Port, ...] = ()
        try:
            self._server = self._start_server(network, publishes=publishes)
            self._client = self._start(network, "sleep", "1000000")
        except BaseException:
            self.close()
            raise
        self._address = LOOPBACK if shares_host else self._address_of(self._server)

    @property
    def has_address(self) -> bool:
        """Whether there is anything to be measured."""
        return bool(self._address)

    @property
    def has_ports(self) -> bool:
        """Whether the server can be reached through published ports."""
        return bool(self._published)

    def check(self) -> None:
        """Wait for the server, over each of the lines. Raises: PlugengineError."""
        self.direct("ping", 0)
        if self.has_ports:
            self.published("ping", 0)

    def direct(self, mode: str, seconds: float) -> float:
        """Measure from container to container."""
        words = ("python3", _GUEST_SCRIPT, mode, self._address, str(self._port), str(self._port), str(seconds))
        output = os.memfd_create("pe-bench-net")
        try:
            outcome = self._engine.containers.exec(
                self._client,
                ExecSpec(command=words),
                streams=Streams(stdout=output, stderr=output, proxy_signals=False),
            )
            text = os.pread(output, os.fstat(output).st_size, 0).decode(errors="replace").strip()
        finally:
            os.close(output)
        return _number(mode, outcome.exit_code, text)

    def published(self, mode: str, seconds: float) -> float:
        """Measure from the host through the published ports."""
        ports = {port.protocol: str(port.host_port) for port in self._published}
        return ask_from_host([mode, LOOPBACK, ports["tcp"], ports["udp"], str(seconds)])

    def close(self) -> None:
        """Remove the containers."""
        for name in self._made:
            with suppress(PlugengineError):
                self._engine.containers.remove(name, force=True)
        self._made.clear()

    def _start_server(self, network: str, *, publishes: bool) -> str:
        words = ("python3", _GUEST_SCRIPT, "server", str(self._port))
        if not publishes:
            return self._start(network, *words)
        ports = tuple(Port(host_ip="", host_port=0, guest_port=self._port, protocol=each) for each in ("tcp", "udp"))
        try:
            name = self._start(network, *words, ports=ports)
        except PlugengineError as exc:  # some can only for some networks
            self.close()
            self.no_ports = exc.message
            return self._start(network, *words)
        self._published = self._engine.containers.ports(name)
        return name

    def _start(self, network: str, *command: str, ports: tuple[Port, ...] = ()) -> str:
        script = VolumeMount(type="bind", source=SCRIPT, target=_GUEST_SCRIPT, read_only=True)
        spec = ContainerSpec(
            image=IMAGE, command=command, network=network, ports=ports, mounts=(script,), stop_timeout_s=0
        )
        name = self._engine.containers.create(spec).id
        self._made.append(name)
        self._engine.containers.start(name)
        return name

    def _address_of(self, name: str) -> str:
        interfaces = [
            interface
            for connection in self._engine.containers.get(name).connections
            for interface in connection.attachment.interfaces
        ]
        return next((address.partition("/")[0] for each in interfaces for address in each.addresses), "")


def ask_from_host(words: Sequence[str]) -> float:
    """Run the client as a process of the host."""
    try:
        done = subprocess.run(
            [sys.executable, SCRIPT, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise PlugengineError(f"{words[0]}: no end within {_TIMEOUT_S} s") from exc
    return _number(words[0], done.returncode, done.stdout.strip())


def _number(mode: str, code: int, text: str) -> float:
    if code != 0:
        raise PlugengineError(f"{mode}: exit code {code}: {(text.splitlines() or [''])[-1][-_TAIL:]}")
    return float(text)

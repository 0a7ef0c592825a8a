"""The steps that connect a container: its network, and the files of /etc that follow from it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Final

import msgspec
from msgspec import Struct

from plugengine.containers.steps import Live, delete_remains
from plugengine.errors import ConflictError, DriverError
from plugengine.model import Attachment, Network, NetworkRequest, Port
from plugengine.networks import etc_files, ipam, networks
from plugengine.spec import ContainerSpec

_PORT_TRIES: Final = 16


class NetworkStep(Struct, frozen=True, kw_only=True):
    """The connection to a network; its subnet, the address and free ports are known only once it is done."""

    container_id: str
    network: str  # its name
    driver: str
    ip: str | None = None  # asked for
    mac: str | None = None
    ports: tuple[Port, ...] = ()  # as asked for
    options: Mapping[str, str] = {}

    def describe(self) -> str:
        """Name the network and the ports."""
        ports = ", ".join(map(_port_in_words, self.ports))
        return f"connect to network {self.network} ({self.driver})" + (f", publish {ports}" if ports else "")

    def do(self, live: Live) -> None:
        """Lease an address, make the network, attach; others cannot remove it meanwhile."""
        with networks.in_use(live.site, self.network):
            network = networks.joined(live.site, self.network, live.drivers.network)
            try:
                self._connect(live, network)
            except BaseException:
                self._give_back(live, network)
                raise

    def _connect(self, live: Live, network: Network) -> None:
        state = live.site.state
        address = None if network.subnet is None else ipam.lease(state, network, self.container_id, self.ip)
        record = live.drivers.network.create(network)
        networks.keep_record(live.site, network, record)
        request = NetworkRequest(
            container_id=self.container_id,
            network=network,
            network_record=record,
            address=address,
            mac=self.mac,
            options=self.options,
        )
        try:
            netns = os.open(f"/proc/{live.first.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as exc:
            raise DriverError(
                f"container {self.container_id}: its first process was killed before it could be connected",
                hint="if it has a memory limit, it may be too low to start anything",
            ) from exc
        try:
            request = msgspec.structs.replace(request, netns=netns)
            live.attachment = self._publish(live, request) if self.ports else live.drivers.network.attach(request)
        except BaseException:
            gone = msgspec.structs.replace(request, netns=-1)
            delete_remains(live, lambda: live.drivers.network.detach(gone, None))
            raise
        finally:
            os.close(netns)
        live.connection = msgspec.structs.replace(request, netns=-1, ports=live.attachment.ports)

    def _publish(self, live: Live, request: NetworkRequest) -> Attachment:
        """Attach with ports; where another would do, another is tried: who has one may be unknown to the core.

        Raises:
            ConflictError: A port that was asked for is taken.
        """
        from plugengine.networks.ports import is_flexible

        avoid: list[Port] = []
        for _ in range(_PORT_TRIES):
            leased = self._lease_ports(live, avoid)
            try:
                return live.drivers.network.attach(msgspec.structs.replace(request, ports=leased))
            except ConflictError:
                others = [port for asked, port in zip(self.ports, leased, strict=True) if is_flexible(asked)]
                if not others:
                    raise
                avoid += others
        return live.drivers.network.attach(msgspec.structs.replace(request, ports=self._lease_ports(live, avoid)))

    def _lease_ports(self, live: Live, avoid: Collection[Port]) -> tuple[Port, ...]:
        from plugengine.networks import ports

        return ports.lease(live.site.state, self.container_id, self.ports, avoid)

    def undo(self, live: Live) -> None:
        """Detach, give the address and the ports back; remove the network when this was the last one."""
        if live.connection is not None:
            live.drivers.network.detach(live.connection, live.attachment)
            self._give_back(live, live.connection.network)

    def _give_back(self, live: Live, network: Network) -> None:
        """Release the leases now; removing a bridge takes the kernel 60 ms, so that comes after clients were told."""
        if network.subnet is not None:
            ipam.release(live.site.state, self.container_id, network=network.name)
        if self.ports:
            from plugengine.networks import ports

            ports.release(live.site.state, self.container_id)
        live.afterwards.append(lambda: networks.remove_if_idle(live.site, network, live.drivers.network))


class WriteFilesStep(Struct, frozen=True, kw_only=True):
    """/etc/hosts, /etc/hostname and /etc/resolv.conf of the guest."""

    container_id: str
    spec: ContainerSpec
    hostname: str
    host_network: bool

    def describe(self) -> str:
        """Name the files."""
        return f"write {', '.join(f'/etc/{name}' for name in etc_files.NAMES)}"

    def do(self, live: Live) -> None:
        """Write them, with the addresses the network has given."""
        etc_files.write(
            live.site.locations,
            self.container_id,
            self.spec,
            hostname=self.hostname,
            attachment=live.attachment,
            host_network=self.host_network,
        )

    def undo(self, live: Live) -> None:
        """Keep them: they belong to the container's directory."""


def _port_in_words(port: Port) -> str:
    last = f"-{port.host_port_last}" if port.host_port_last else ""
    return f"{port.host_port}{last}->{port.guest_port}/{port.protocol}"

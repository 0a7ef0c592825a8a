"""The network driver under test, the host it works on, and the containers of one case."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from plugengine import ipam
from plugengine.drivers import NetworkDriver
from plugengine.errors import PlugengineError
from plugengine.locate import Locations
from plugengine.model import Capability, Host, HostPath, Network, Port
from plugengine.state import State
from plugengine.testing.network import playground, view
from plugengine.testing.network.container import Container
from plugengine.testing.network.place import Place

_ID_LENGTH: Final = 64
# The kernel removes what was in a namespace some moments after its end.
_SETTLE_TRIES: Final = 150
_SETTLE_PAUSE_S: Final = 0.01

Traces = tuple[frozenset[str], ...]


class Subject:
    """Runs in a network namespace of the case's own, which plays the host; see `playground` for what is around it.

    Args:
        driver: The driver under test.
        host: Roots below `scratch`.
        scratch: Directory of this case.
        options: The user's, given to every network of the case; an option `parent` is best `kit0`.
    """

    def __init__(self, driver: NetworkDriver, host: Host, scratch: HostPath, options: Mapping[str, str]) -> None:
        self.driver = driver
        self.host = host
        self.scratch = scratch
        self.options = dict(options)
        self.records: dict[str, Mapping[str, Any]] = {}
        self.networks: dict[str, Network] = {}
        self.containers: list[Container] = []
        self.here = Place.here()
        self.state = State(host.root)
        self._number = 0
        self._before: Traces = ()
        self._left: list[str] = []

    @property
    def shares_host(self) -> bool:
        """Whether containers stay in the host's namespace."""
        return self.claims(Capability.HOST_NAMESPACE)

    def claims(self, capability: Capability) -> bool:
        """Tell whether the driver claims a capability."""
        return capability in self.driver.info.capabilities

    def __enter__(self) -> Self:
        Locations(self.host.root, self.host.run_root).ensure()
        self.world = playground.World()
        self._before = traces()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach and remove whatever the case left.

        Raises:
            PlugengineError: The driver could not; only if the case itself has not failed.
        """
        problems: list[PlugengineError] = []
        for container in self.containers:
            self._undo(problems, self.driver.detach, container.network, container.id, container.attachment)
            container.close()
        for network in self.networks.values():
            self._undo(problems, self.driver.remove, network, self.records.get(network.name, {}))
        self._left = [f"left {line}" for line in self.settle(self._before)]
        self.world.close()
        self.here.close()
        if problems and kind is None:
            raise problems[0]

    def _undo(self, problems: list[PlugengineError], verb: Callable[..., None], *arguments: object) -> None:
        try:
            verb(*arguments)
        except PlugengineError as exc:
            problems.append(exc)

    def leaks(self) -> list[str]:
        """Return what is on the host and was not before the case, in words."""
        return self._left

    # --- what cases ask for --------------------------------------------------------------------------------

    def network(self, name: str = "kit", **options: str) -> Network:
        """Return a network with a subnet of its own, if the driver wants one; its host side is not made yet.

        The same name is the same network; options are taken the first time.
        """
        if name in self.networks and not options:
            return self.networks[name]
        wants = self.claims(Capability.ADDRESSES)
        made = ipam.ensure_network(
            self.state, name, self.driver.name, wants_addresses=wants, host_subnets=(playground.SUBNET,)
        )
        if name not in self.networks and made.gateway is not None and made.subnet is not None:
            self.world.add_address(made.gateway, int(made.subnet.partition("/")[2]))
        network = msgspec.structs.replace(made, options={**self.options, **options})
        self.networks[name] = network
        return network

    def make(self, network: Network) -> Mapping[str, Any]:
        """Make, or mend, the host's side; return the record."""
        self.records[network.name] = self.driver.create(network)
        return self.records[network.name]

    def container(self, network: Network | None = None, container_id: str = "") -> Container:
        """Return a new container with an address leased, if the driver wants one; not attached yet."""
        self._number += 1
        network = network or self.network()
        container_id = container_id or f"{self._number:0{_ID_LENGTH}x}"
        address = ipam.lease(self.state, network, container_id) if network.subnet is not None else None
        made = Container(self, network, container_id, address)
        self.containers.append(made)
        return made

    def attached(self, *ports: Port, network: Network | None = None) -> Container:
        """Return a new container, attached."""
        return self.container(network).attach(*ports)

    def forget(self, container: Container) -> None:
        """Let the namespace of a container that is detached die, and give its address back."""
        self.containers.remove(container)
        container.close()
        ipam.release(self.state, container.id)

    def new(self) -> list[str]:
        """Return what is on the host now and was not before the case."""
        return new_since(self._before)

    def settle(self, before: Traces) -> list[str]:
        """Give the kernel time to remove what was in a namespace that ended; return what is new since `before`."""
        for _ in range(_SETTLE_TRIES):
            if not new_since(before):
                return []
            time.sleep(_SETTLE_PAUSE_S)
        return new_since(before)


def port(host_port: int, guest_port: int, *, on: str = "", protocol: str = "tcp") -> Port:
    """Return a port to publish; `on` is one address of the host, empty: all."""
    return Port(host_ip=on, host_port=host_port, guest_port=guest_port, protocol=protocol)


def traces() -> Traces:
    """Return what a driver can leave on the host: links, addresses, routes, rules."""
    found = view.links()
    return (
        frozenset(f"link {link.name} ({link.kind or 'device'})" for link in found.values()),
        frozenset(f"address {address} of {link.name}" for link in found.values() for address in link.addresses),
        frozenset(f"route to {route.destination} via {route.gateway}" for route in view.routes()),
        frozenset(view.rules()),
    )


def new_since(before: Traces) -> list[str]:
    """Return what is there now and was not before, in words."""
    return [line for old, new in zip(before, traces(), strict=True) for line in sorted(new - old)]

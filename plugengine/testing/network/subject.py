"""The network driver under test, the host it works on, and the containers of one case."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from plugengine.errors import PlugengineError
from plugengine.kernel import rtnetlink
from plugengine.kernel.links import link_up
from plugengine.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from plugengine.kernel.process import CLONE_NEWNET, unshare
from plugengine.model import Capability, Host, HostPath, Network, Port
from plugengine.networks import ipam
from plugengine.plugins.drivers import NetworkDriver
from plugengine.state.locations import Locations
from plugengine.state.state import State
from plugengine.testing.cases import expect
from plugengine.testing.children import in_child
from plugengine.testing.network import playground, view
from plugengine.testing.network.container import Container
from plugengine.testing.network.host_traces import Traces, traces
from plugengine.testing.network.net_namespace import Place, forward_nothing

_ID_LENGTH: Final = 64
# The kernel removes what was in a namespace some moments after its end.
_SETTLE_TRIES: Final = 150
_SETTLE_PAUSE_S: Final = 0.01
_SOON: Final = 15  # of these tries
_LEFT: Final = "left "


class Subject:
    """Runs in a network namespace of the case's own, which plays the host; see `playground` for what is around it.

    Args:
        driver: The driver under test.
        host: Roots below `scratch`.
        scratch: Directory of this case.
        options: The user's, given to every network of the case; an option `parent` is best `kit0`.
        nothing_shared: Whatever is left was left; see `_what_is_shared`.
    """

    def __init__(
        self,
        driver: NetworkDriver,
        host: Host,
        scratch: HostPath,
        options: Mapping[str, str],
        *,
        nothing_shared: bool = False,
    ) -> None:
        self.driver: NetworkDriver = driver
        self.host: Host = host
        self.scratch: HostPath = scratch
        self.options: dict[str, str] = dict(options)
        self.records: dict[str, Mapping[str, Any]] = {}
        self.networks: dict[str, Network] = {}
        self.containers: list[Container] = []
        self.here: Place = Place.here()
        self.state: State = State(host.root)
        self._number = 0
        self._nothing_shared = nothing_shared
        self._before: Traces = frozenset()
        self._shared: Traces | None = frozenset() if nothing_shared else None
        self._left: list[str] = []

    @property
    def shares_host(self) -> bool:
        """Whether containers stay in the host's namespace."""
        return self.claims(Capability.HOST_NAMESPACE)

    def claims(self, capability: Capability) -> bool:
        """Tell whether the driver claims a capability."""
        return capability in self.driver.info.capabilities

    def __enter__(self) -> Self:
        _refuse_the_machines()
        Locations(self.host.root, self.host.run_root).ensure()
        forward_nothing()
        self.world: playground.World = playground.World()
        self._before = traces()
        self._links = set(view.links())
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
            self._undo(problems, self.driver.detach, container.lent_nothing, container.attachment)
            container.close()
        for network in self.networks.values():
            self._undo(problems, self.driver.remove, network, self.records.get(network.name, {}))
        self._left = self._settle(self._before)
        self._sweep()
        self.world.close()
        self.here.close()
        if problems and kind is None:
            raise problems[0]

    def _sweep(self) -> None:
        """Delete the links that are left: they are told of already, unless they may stay."""
        with NetlinkSocket(NETLINK_ROUTE) as route:
            for name in set(view.links()) - self._links:
                rtnetlink.delete(route, name)

    def _undo(self, problems: list[PlugengineError], verb: Callable[..., None], *arguments: object) -> None:
        try:
            verb(*arguments)
        except PlugengineError as exc:
            problems.append(exc)

    def leaks(self) -> list[str]:
        """Return what is on the host and was not before the case, in words."""
        return self._left

    # --- what cases ask for --------------------------------------------------------------------------------

    def network(self, name: str = "kit", *, owner: str = "", **options: str) -> Network:
        """Return a network with a subnet of its own, if the driver wants one; its host side is not made yet.

        The same name is the same network; owner and options are taken the first time.
        """
        if name in self.networks and not options:
            return self.networks[name]
        wants = self.claims(Capability.ADDRESSES)
        made = ipam.ensure_network(
            self.state, name, self.driver.name, wants_addresses=wants, host_subnets=(playground.SUBNET,)
        )
        if name not in self.networks and made.gateway is not None and made.subnet is not None:
            self.world.add_address(made.gateway, int(made.subnet.partition("/")[2]))
        network = msgspec.structs.replace(made, options={**self.options, **options}, owner=owner or made.owner)
        self.networks[name] = network
        return network

    def make(self, network: Network) -> Mapping[str, Any]:
        """Make, or repair, the host's side; return the record."""
        self.records[network.name] = self.driver.create(network)
        return self.records[network.name]

    def container(self, network: Network | None = None, container_id: str = "") -> Container:
        """Return a new container with an address leased, if the driver wants one; not attached yet."""
        self._number += 1
        network = network or self.network()
        # Cases run at the same time, and what a driver knows of containers may be the machine's, such as in /var/lib.
        container_id = container_id or f"{os.getpid():08x}{self._number:0{_ID_LENGTH - 8}x}"
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

    # --- what is left ----------------------------------------------------------------------------------------

    def expect_unchanged(self, before: Traces, what: str) -> None:
        """Fail unless the host is as it was; `what` says after which verb."""
        found = self._changes(before)
        expect(not found, f"the host {what}: {'; '.join(found)}")

    def expect_clean(self, what: str) -> None:
        """Fail unless the host is as it was before the case."""
        self.expect_unchanged(self._before, what)

    def expect_settled(self, before: Traces, what: str) -> None:
        """Give the kernel time to remove what was in a namespace that ended; then the host must be as it was."""
        self._settle(before)
        self.expect_unchanged(before, what)

    def _settle(self, before: Traces) -> list[str]:
        for attempt in range(_SOON if self._nothing_shared else _SETTLE_TRIES):
            if not (traces() - before - (self._shared or frozenset())):
                break
            if attempt == _SOON:
                self._what_is_shared()
            time.sleep(_SETTLE_PAUSE_S)
        return self._changes(before)

    def _changes(self, before: Traces) -> list[str]:
        """Return what is new and what is gone, in words, but for what the driver shares between networks."""
        now = traces()
        if now == before:
            return []
        shared = self._what_is_shared()
        return [
            *(f"{_LEFT}{line}" for line in sorted(now - before - shared)),
            *(f"took away {line}" for line in sorted(before - now - shared)),
        ]

    def _what_is_shared(self) -> Traces:
        """Return what stays of one container of another network on a host of its own, after all was removed.

        That much a driver may keep, such as the chains it puts all its rules in: made once, it does not grow.
        """
        if self._shared is None:
            self._shared = frozenset(in_child(self._first_traces))
        return self._shared

    def _first_traces(self) -> list[str]:
        unshare(CLONE_NEWNET)
        link_up("lo")
        scratch = HostPath(f"{self.scratch}/shared")
        host = Host(root=HostPath(f"{scratch}/root"), run_root=HostPath(f"{scratch}/run"), kernel=self.host.kernel)
        os.makedirs(scratch)
        other = Subject(self.driver, host, scratch, self.options, nothing_shared=True)
        with other:
            ports = (port(0, 80),) if other.claims(Capability.PORTS) else ()
            other.attached(*ports, network=other.network("kit-shared"))
        return [line.removeprefix(_LEFT) for line in other.leaks()]


def _refuse_the_machines() -> None:
    """Make sure that what cases add, flush and delete is not the machine's, whoever makes a subject."""
    try:
        if os.path.samefile("/proc/self/ns/net", "/proc/1/ns/net"):
            raise RuntimeError(
                "network cases need a network namespace of their own: run them by plugengine.testing.run"
            )
    except PermissionError:
        return  # not root in the first user namespace: then it is not the machine's


def port(host_port: int, guest_port: int, *, on: str = "", protocol: str = "tcp") -> Port:
    """Return a port to publish; `on` is one address of the host, empty: all."""
    return Port(host_ip=on, host_port=host_port, guest_port=guest_port, protocol=protocol)

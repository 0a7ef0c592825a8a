"""The steps of a container's start; each can say itself, do itself and undo itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from msgspec import Struct

from plugengine import mounts
from plugengine.containers import file_server
from plugengine.errors import ConflictError, DriverError, PlugengineError
from plugengine.model import (
    Attachment,
    CgroupRequest,
    Limits,
    Network,
    NetworkRequest,
    Port,
    Record,
    Settings,
    UserMap,
)
from plugengine.plugins.drivers import DriverSet
from plugengine.plugins.observers import Teller
from plugengine.runtime.launch import Child, join_cgroup

if TYPE_CHECKING:
    from plugengine.runtime.guest import GuestPlan

_PORT_TRIES: Final = 16


class Live:
    """What the steps of one start have made so far; lives in the monitor."""

    def __init__(self, drivers: DriverSet, *, log: Callable[[str], None], tell: Teller | None = None) -> None:
        self.drivers = drivers
        self.log = log
        self.tell = tell or Teller(None, "")
        self.server: file_server.ServerProcess | None = None
        self.cgroup: Record | None = None
        self.child: Child | None = None
        self.connection: NetworkRequest | None = None
        self.attachment: Attachment | None = None
        self.afterwards: list[Callable[[], None]] = []  # what nobody need wait for, once all is undone


class Step(Protocol):
    """One action on the host."""

    def describe(self) -> str:
        """Say what `do` does, in one line."""

    def do(self, live: Live) -> None:
        """Act.

        Raises:
            PlugengineError, OSError: Nothing of this step is left behind.
        """

    def undo(self, live: Live) -> None:
        """Take it back; what is gone already is fine."""


class Runner:
    """Runs steps in order and takes them back in reverse."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._done: list[Step] = []

    def run(self, steps: Sequence[Step]) -> None:
        """Do every step; on failure everything done so far is undone before the error goes on."""
        for step in steps:
            self._live.log(step.describe())
            self._tell("step-begin", step, undo=False)
            try:
                step.do(self._live)
            except BaseException:
                self.unwind()
                raise
            self._done.append(step)
            self._tell("step-end", step, undo=False)

    def unwind(self) -> list[str]:
        """Undo what was done, last first; try everything, return what went wrong."""
        problems: list[str] = []
        while self._done:
            step = self._done.pop()
            self._live.log(f"undo: {step.describe().splitlines()[0]}")
            self._tell("step-begin", step, undo=True)
            try:
                step.undo(self._live)
            except (PlugengineError, OSError) as exc:
                problems.append(f"undo {step.describe().splitlines()[0]}: {exc}")
            self._tell("step-end", step, undo=True)
        return problems

    def _tell(self, action: str, step: Step, *, undo: bool) -> None:
        if self._live.tell.heard:
            kind = type(step).__name__.removesuffix("Step").lower()
            self._live.tell(action, step=kind, what=step.describe().splitlines()[0], undo=str(undo).lower())


class CgroupStep(Struct, frozen=True):
    """The control group and its limits."""

    request: CgroupRequest
    settings: Settings
    limits: Limits

    def describe(self) -> str:
        """Say it."""
        writes = ", ".join(f"{write.file}={write.value.strip()}" for write in self.settings.writes)
        return f"make cgroup {self.request.parent}/{self.request.container_id}" + (f" with {writes}" if writes else "")

    def do(self, live: Live) -> None:
        """Make it and write the limits."""
        record = live.drivers.cgroup.create(self.request)
        try:
            live.drivers.cgroup.apply(record, self.settings, self.limits)
        except BaseException:
            live.drivers.cgroup.remove(self.request, record)
            raise
        live.cgroup = record

    def undo(self, live: Live) -> None:
        """Kill what is left in it and remove it."""
        if live.cgroup is not None:
            live.drivers.cgroup.kill(self.request, live.cgroup)
            live.drivers.cgroup.remove(self.request, live.cgroup)


class CloneStep(Struct, frozen=True):
    """The first process, held at its gate inside its new namespaces."""

    clone: Callable[[Live], Child]
    names: tuple[str, ...]

    def describe(self) -> str:
        """Say it."""
        return f"clone the first process with new namespaces: {' '.join(self.names) or 'none'}"

    def do(self, live: Live) -> None:
        """Clone."""
        live.child = self.clone(live)

    def undo(self, live: Live) -> None:
        """Kill and reap it, unless the monitor has seen it end."""
        if live.child is not None:
            live.child.end()


class MapUsersStep(Struct, frozen=True):
    """The id maps of the user namespace."""

    user_map: UserMap

    def describe(self) -> str:
        """Say it."""
        ranges = ", ".join(f"{each.guest}:{each.host}:{each.size}" for each in self.user_map.uids)
        return f"map user ids {ranges}"

    def do(self, live: Live) -> None:
        """Write the maps."""
        assert live.child is not None  # noqa: S101 - CloneStep comes before
        mounts.write_maps(live.child.pid, self.user_map)

    def undo(self, live: Live) -> None:
        """Nothing: the maps go with the namespace."""


class JoinCgroupStep(Struct, frozen=True):
    """Move the first process into its group, and set how the out-of-memory killer sees it."""

    oom_score_adj: int | None

    def describe(self) -> str:
        """Say it."""
        return "move the first process into its cgroup"

    def do(self, live: Live) -> None:
        """Join."""
        assert live.child is not None  # noqa: S101 - CloneStep comes before
        join_cgroup(live.drivers, live.cgroup, live.child.pid)
        if self.oom_score_adj is not None:
            with open(f"/proc/{live.child.pid}/oom_score_adj", "w", encoding="ascii") as stream:
                stream.write(str(self.oom_score_adj))

    def undo(self, live: Live) -> None:
        """Nothing: it leaves when it ends."""


def _port_in_words(port: Port) -> str:
    last = f"-{port.host_port_last}" if port.host_port_last else ""
    return f"{port.host_port}{last}->{port.guest_port}/{port.protocol}"


def _no_ports(avoid: Collection[Port]) -> tuple[Port, ...]:
    del avoid
    return ()


class NetworkStep(Struct, frozen=True):
    """The connection to a network."""

    container_id: str
    network: Network
    hold: Callable[[], AbstractContextManager[None]]  # against removal by others
    lease: Callable[[], str | None]
    release: Callable[[], None]
    retire: Callable[[], None]  # removes the host's side if nobody uses it any more
    keep_record: Callable[[Record], None]
    mac: str | None = None
    ports: tuple[Port, ...] = ()  # as asked for
    lease_ports: Callable[[Collection[Port]], tuple[Port, ...]] = _no_ports  # given those not to choose
    options: Mapping[str, str] = {}

    def describe(self) -> str:
        """Say it."""
        ports = ", ".join(map(_port_in_words, self.ports))
        return f"connect to network {self.network.name} ({self.network.driver})" + (
            f", publish {ports}" if ports else ""
        )

    def do(self, live: Live) -> None:
        """Lease an address, make the network, attach."""
        assert live.child is not None  # noqa: S101 - CloneStep comes before
        try:
            with self.hold():
                self._connect(live, live.child.pid)
        except BaseException:
            self._give_back(live)
            raise

    def _connect(self, live: Live, pid: int) -> None:
        address = self.lease()
        record = live.drivers.network.create(self.network)
        self.keep_record(record)
        request = NetworkRequest(
            container_id=self.container_id,
            network=self.network,
            network_record=record,
            address=address,
            mac=self.mac,
            options=self.options,
        )
        try:
            netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as exc:
            raise DriverError(
                f"container {self.container_id}: its first process was killed before it could be connected",
                hint="if it has a memory limit, it may be too low to start anything",
            ) from exc
        try:
            request = msgspec.structs.replace(request, netns=netns)
            live.attachment = self._attach(live, request) if self.ports else live.drivers.network.attach(request)
        finally:
            os.close(netns)
        live.connection = msgspec.structs.replace(request, netns=-1, ports=live.attachment.ports)

    def _attach(self, live: Live, request: NetworkRequest) -> Attachment:
        """Attach with ports; where another would do, another is tried: who has one may be unknown to the core.

        Raises:
            ConflictError: A port that was asked for is taken.
        """
        from plugengine.networks.ports import is_flexible

        avoid: list[Port] = []
        for _ in range(_PORT_TRIES):
            leased = self.lease_ports(avoid)
            try:
                return live.drivers.network.attach(msgspec.structs.replace(request, ports=leased))
            except ConflictError:
                others = [port for asked, port in zip(self.ports, leased, strict=True) if is_flexible(asked)]
                if not others:
                    raise
                avoid += others
        return live.drivers.network.attach(msgspec.structs.replace(request, ports=self.lease_ports(avoid)))

    def undo(self, live: Live) -> None:
        """Detach, give the address back; remove the network when this was the last one."""
        if live.connection is not None:
            live.drivers.network.detach(live.connection, live.attachment)
        self._give_back(live)

    def _give_back(self, live: Live) -> None:
        """Release the lease now; removing a bridge takes the kernel 60 ms, so that comes after the goodbyes."""
        self.release()
        live.afterwards.append(self.retire)


class WriteFilesStep(Struct, frozen=True):
    """/etc/hosts, /etc/hostname and /etc/resolv.conf of the guest."""

    write: Callable[[Live], None]

    def describe(self) -> str:
        """Say it."""
        return "write /etc/hosts, /etc/hostname and /etc/resolv.conf"

    def do(self, live: Live) -> None:
        """Write them."""
        self.write(live)

    def undo(self, live: Live) -> None:
        """Keep them: they belong to the container's directory."""


class CommandStep(Struct, frozen=True):
    """Open the gate: the first process sets up its inside and becomes the command."""

    guest: GuestPlan | Any
    argv: tuple[str, ...]

    def describe(self) -> str:
        """Say it."""
        inside = "".join(f"\n  inside: {step.describe()}" for step in self.guest.steps)
        return f"run {' '.join(self.argv)}{inside}"

    def do(self, live: Live) -> None:
        """Let it go and wait until exec has happened or failed."""
        assert live.child is not None  # noqa: S101 - CloneStep comes before
        live.child.release()

    def undo(self, live: Live) -> None:
        """End it, if it has not ended."""
        if live.child is not None:
            live.child.signal(signal.SIGKILL)

"""Connect containers, disconnect them, change their ports: the hooks in terms of chains of plugins."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from plugengine.errors import DriverError, NotSupportedError, UsageError
from plugengine.kernel import netns
from plugengine.kernel.links import in_namespace, link_up
from plugengine.model import Attachment

from plugengine_net_cni import chain, config, ledger, ports, result, search, standin
from plugengine_net_cni.chain import Connection
from plugengine_net_cni.config import NetworkList
from plugengine_net_cni.plugin import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.model import Network, NetworkRequest, Port, Record

_MAX_INTERFACES = 32


class Settings:
    """The options of one connection: the container's own before the network's."""

    def __init__(self, network: Network, own: Mapping[str, Any] | None = None) -> None:
        options = {**network.options, **(own or {})}
        self._options = options
        self.path: str = options["path"]
        self.args: str = options["args"]
        self.timeout_s: float = options["timeout"]
        self.arguments: dict[str, Any] = {}
        if options["ip"] is not None:
            self.arguments["ips"] = options["ip"].split(",")
        if options["mac"] is not None:
            self.arguments["mac"] = options["mac"]
        self._name = None if network.name == network.driver else network.name

    @property
    def chosen(self) -> bool:
        """Whether a configuration was asked for."""
        return self._name is not None or self._options["conf"] is not None

    def read(self) -> NetworkList:
        """Return the configuration: a file, else by the network's name, else the first there is.

        Raises:
            UsageError: It is not there or not valid, or no plugin takes an argument that was given.
        """
        file = self._options["conf"]
        found = search.find_list(self._name, self._options["dir"]) if file is None else config.read(file)
        for capability in self.arguments:
            if not found.claims(capability):
                raise UsageError(f"cni network {found.name}: none of its plugins has the capability {capability}")
        return found


def prepare(network: Network) -> Record:
    """Read the configuration and ask the plugins; see `pe_network_create`."""
    settings = Settings(network)
    if not settings.chosen:
        return {}  # containers may choose
    return _ask(settings.read(), settings)


def attach(request: NetworkRequest) -> Attachment:
    """ADD; see `pe_network_attach`."""
    network = request.network
    settings = Settings(network, request.options if request.mac is None else {**request.options, "mac": request.mac})
    found = settings.read()
    known = request.network_record.get("list") == msgspec.to_builtins(found)
    version = request.network_record["version"] if known else _ask(found, settings)["version"]
    _check_ports(found, request)
    identity = netns.identify(request.netns)
    path = standin.path_of(request.netns)
    kept = ledger.load(request.container_id, network.name)
    if kept is not None:
        if tuple(kept.connection.netns) == identity and _still_there(kept.connection, path):
            return _attachment(kept)
        detach(network, request.container_id, None)
    connection = Connection(
        container_id=request.container_id,
        network=found,
        version=str(version),
        path=settings.path,
        ifname=_free_name(request.netns),
        args=settings.args,
        timeout_s=settings.timeout_s,
        runtime=settings.arguments,
        netns=identity,
    )
    kept = _begin(connection, network, request.ports)
    return _add(kept, path, request)


def _add(kept: ledger.Entry, path: str, request: NetworkRequest) -> Attachment:
    connection = kept.connection
    try:
        link_up("lo", request.netns)
        added = chain.add(connection, path, Deadline(connection.timeout_s), connection.network.plugins)
        kept = msgspec.structs.replace(kept, connection=msgspec.structs.replace(connection, result=added))
        ledger.save(kept)
        return _attachment(kept)
    except DriverError as exc:
        left = _undo(kept, path)
        message = f"{exc.message}; taking it back: {'; '.join(left)}" if left else exc.message
        raise DriverError(message, hint=exc.hint) from exc
    except BaseException:
        _undo(kept, path)
        raise


def _undo(kept: ledger.Entry, path: str) -> list[str]:
    """DEL with all plugins after a failed ADD; what could not be undone stays in the ledger, for `gc`."""
    connection = kept.connection
    plugins = connection.network.plugins
    left = chain.delete(connection, dict.fromkeys(range(len(plugins)), path), Deadline(connection.timeout_s), plugins)
    if not left:
        ledger.forget(connection.container_id, kept.network)
    return left


def detach(network: Network, container_id: str, attachment: Attachment | None) -> None:
    """DEL; see `pe_network_detach`."""
    connection = _known(network, container_id, attachment)
    if connection is None:
        return
    problems = take_back(connection)
    if problems:
        raise DriverError(f"disconnect container {container_id} from network {network.name}: {'; '.join(problems)}")
    ledger.forget(container_id, network.name)


def take_back(connection: Connection) -> list[str]:
    """DEL with all plugins, in the namespace if it is still there; return what went wrong."""
    plugins, deadline = connection.network.plugins, Deadline(connection.timeout_s)
    fd = netns.find(netns.NetnsId(*connection.netns))
    if fd is None:
        with standin.places(connection) as places:
            return chain.delete_after(connection, places, deadline, plugins)
    try:
        return chain.delete(connection, dict.fromkeys(range(len(plugins)), standin.path_of(fd)), deadline, plugins)
    finally:
        os.close(fd)


def change_ports(network: Network, container_id: str, attachment: Attachment, wanted: tuple[Port, ...]) -> Attachment:
    """Publish other ports, or make sure of those there are; see `pe_network_ports`."""
    connection = _known(network, container_id, attachment)
    fd = None if connection is None else netns.find(netns.NetnsId(*connection.netns))
    if connection is None or fd is None:
        raise DriverError(f"publish ports of container {container_id}: its network namespace is gone")
    try:
        path = standin.path_of(fd)
        problems: dict[int, str] = {}
        if wanted == attachment.ports and chain.has_check(connection):
            problems = chain.failing(connection, path, Deadline(connection.timeout_s))
            if not problems:
                return attachment
        elif wanted and not connection.network.claims(chain.PORTS):
            raise _no_publisher(connection.network, container_id)
        elif 0 in chain.publishers(connection.network):
            raise NotSupportedError(
                f"publish ports of container {container_id}: the plugin that publishes them made its interface too",
                hint="start the container again with the other ports",
            )
        # The first plugin made the interface; the others only add to what it made, and can do so again.
        places = sorted({*chain.publishers(connection.network), *problems} - {0})
        found = _add_again(network, connection, attachment, wanted, path, places)
        if 0 in problems:
            raise DriverError(problems[0])
        return found
    finally:
        os.close(fd)


def _add_again(
    network: Network,
    connection: Connection,
    attachment: Attachment,
    wanted: tuple[Port, ...],
    path: str,
    places: list[int],
) -> Attachment:
    """DEL and ADD some of the plugins, with these ports; when they cannot be added the old ones are again."""
    plugins = [connection.network.plugins[place] for place in places]
    deadline = Deadline(connection.timeout_s)
    where = dict.fromkeys(range(len(plugins)), path)
    before = ledger.load(connection.container_id, network.name)
    with ledger.locked():
        same = wanted == attachment.ports
        chosen = wanted if same else ports.choose(wanted, _taken(connection.container_id, network.name))
        runtime = {**connection.runtime, chain.PORTS: ports.mappings(chosen)}
        changed = msgspec.structs.replace(connection, runtime=runtime)
        kept = ledger.entry(changed, network, chosen)
        if before is not None:  # the container's monitor answers for it, not whoever repairs it
            kept = msgspec.structs.replace(kept, owner=before.owner, boot_id=before.boot_id, host=before.host)
        ledger.save(kept)
    try:
        chain.delete(connection, where, deadline, plugins)  # what is not there any more is no reason not to add it
        chain.add(changed, path, deadline, plugins)
    except BaseException:
        chain.delete(changed, where, deadline, plugins)
        ledger.save(msgspec.structs.replace(kept, connection=connection, ports=attachment.ports))
        if not same:
            chain.add(connection, path, deadline, plugins)
        raise
    return _attachment(kept)


def _ask(found: NetworkList, settings: Settings) -> dict[str, Any]:
    """Agree on a version with the plugins, and ask whether they can; return the network's record."""
    deadline = Deadline(settings.timeout_s)
    version = chain.negotiate(found, settings.path, deadline)
    chain.status(found, version, settings.path, deadline)
    return {"list": msgspec.to_builtins(found), "version": version}


def _begin(connection: Connection, network: Network, wanted: tuple[Port, ...]) -> ledger.Entry:
    """Choose the ports, and note what is about to be added."""
    with ledger.locked():
        chosen = ports.choose(wanted, _taken(connection.container_id, network.name))
        if chosen:
            runtime = {**connection.runtime, chain.PORTS: ports.mappings(chosen)}
            connection = msgspec.structs.replace(connection, runtime=runtime)
        kept = ledger.entry(connection, network, chosen)
        ledger.save(kept)
    return kept


def _taken(container_id: str, network: str) -> Iterator[Port]:
    """Yield the ports of all other connections; reads every entry of the host."""
    for kept in ledger.load_all():
        if (kept.connection.container_id, kept.network) != (container_id, network) and kept.ours():
            yield from kept.ports


def _still_there(connection: Connection, path: str) -> bool:
    """Tell whether a finished ADD holds, by CHECK; where there is no CHECK, that nobody can tell."""
    if connection.result is None or not chain.has_check(connection):
        return False
    return not chain.failing(connection, path, Deadline(connection.timeout_s))


def _known(network: Network, container_id: str, attachment: Attachment | None) -> Connection | None:
    kept = ledger.load(container_id, network.name)
    if kept is not None:
        return kept.connection
    stored = attachment.record.get("connection") if attachment is not None else None
    return msgspec.convert(stored, Connection) if stored else None


def _attachment(kept: ledger.Entry) -> Attachment:
    connection = kept.connection
    record = {"connection": msgspec.to_builtins(connection)}
    return result.attachment(connection.result or {}, ifname=connection.ifname, ports=kept.ports, record=record)


def _check_ports(found: NetworkList, request: NetworkRequest) -> None:
    if request.ports and not found.claims(chain.PORTS):
        raise _no_publisher(found, request.container_id)


def _no_publisher(found: NetworkList, container_id: str) -> NotSupportedError:
    return NotSupportedError(
        f"publish ports of container {container_id} on cni network {found.name}: none of its plugins publishes ports",
        hint='add {"type": "portmap", "capabilities": {"portMappings": true}} to its configuration',
    )


def _free_name(fd: int) -> str:
    """Return eth0, or the next name no interface of the namespace has."""
    with in_namespace(fd):
        taken = {name for _, name in socket.if_nameindex()}
    return next(name for number in range(_MAX_INTERFACES) if (name := f"eth{number}") not in taken)

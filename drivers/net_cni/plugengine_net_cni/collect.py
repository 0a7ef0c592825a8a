"""Take back what belongs to no container, and let the plugins do the same; see `pe_network_gc`."""

from __future__ import annotations

from plugengine.errors import DriverError, UsageError

from plugengine_net_cni import chain, ledger
from plugengine_net_cni.attachment import Settings, take_back
from plugengine_net_cni.plugin import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.model import Network


def collect(engine: str, networks: tuple[Network, ...], valid_ids: frozenset[str]) -> list[str]:
    """DEL one engine's abandoned attachments, then GC every network it knows; return what was removed, in words.

    Raises:
        DriverError: Something could not be removed; everything else was.
    """
    removed: list[str] = []
    problems: list[str] = []
    ledger.sweep()
    for kept in ledger.load_all():
        connection = kept.connection
        if kept.engine != engine:
            continue  # it may not be in `valid_ids`, but is another's to take back
        if connection.container_id in valid_ids or not kept.abandoned():
            continue
        left = take_back(connection)
        if left and not kept.hopeless:
            problems += left
            continue
        ledger.forget(connection.container_id, kept.network)
        why = f" ({'; '.join(left)})" if left else ""
        removed.append(f"cni attachment of container {connection.container_id} to {connection.network.name}{why}")
    problems += [problem for network in networks for problem in _let_collect(network)]
    if problems:
        raise DriverError(f"collect cni attachments: {'; '.join(problems)}")
    return removed


def _let_collect(network: Network) -> list[str]:
    settings = Settings(network)
    try:
        found = settings.read()
    except UsageError:
        return []  # its configuration is gone; nobody knows whom to ask
    if not chain.has_gc(found, found.versions[0]):
        return []
    valid = [
        (kept.connection.container_id, kept.connection.ifname)
        for kept in ledger.load_all()
        if kept.connection.network.name == found.name
    ]
    deadline = Deadline(settings.timeout_s)
    try:
        version = chain.negotiate(found, settings.path, deadline)
    except DriverError as exc:
        return [exc.message]
    return chain.collect(found, version, settings.path, valid, deadline)

"""The host's network: the container stays in the host's network namespace."""

from __future__ import annotations

from collections.abc import Iterable

from plugengine.errors import NotSupportedError
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.model import Attachment, Capability, DriverInfo, Host, Network, NetworkRequest

_INFO = DriverInfo(
    api_version=API_VERSION,
    summary="the host's interfaces, addresses and ports",
    capabilities=frozenset((Capability.HOST_NAMESPACE,)),
)


@hookimpl
def pe_network_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_network_probe(host: Host) -> Iterable[str]:
    """Return no reasons: nothing is needed."""
    return ()


@hookimpl
def pe_network_attach(request: NetworkRequest) -> Attachment:
    """Connect nothing: what the host has, the container has."""
    if request.ports:
        raise _no_ports(request.network, request.container_id)
    return Attachment()


@hookimpl
def pe_network_detach(request: NetworkRequest, attachment: Attachment | None) -> None:
    """Remove nothing."""


def _no_ports(network: Network, container_id: str) -> NotSupportedError:
    return NotSupportedError(
        f"publish ports of container {container_id} on network {network.name}: it uses the host's own ports",
        hint="leave out -p: what the container listens on, the host listens on",
    )

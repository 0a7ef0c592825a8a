"""No network: the container has its loopback interface and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from plugengine.errors import DriverError, NotSupportedError
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.model import Attachment, DriverInfo, Host, Network, NetworkRequest

_INFO = DriverInfo(api_version=API_VERSION, summary="loopback only")


@hookimpl
def pe_network_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_network_probe(host: Host) -> Iterable[str]:
    """Return no reasons: every kernel that runs containers can do it."""
    return ()


@hookimpl
def pe_network_attach(request: NetworkRequest) -> Attachment:
    """Bring up lo in the container's network namespace."""
    from plugengine.kernel.links import link_up

    if request.ports:
        raise _no_ports(request.network, request.container_id)
    try:
        link_up("lo", request.netns)
    except OSError as exc:
        raise DriverError(f"bring up lo of container {request.container_id}: {exc.strerror}") from exc
    return Attachment()


@hookimpl
def pe_network_detach(request: NetworkRequest, attachment: Attachment | None) -> None:
    """Remove nothing: lo goes with its namespace."""


def _no_ports(network: Network, container_id: str) -> NotSupportedError:
    return NotSupportedError(
        f"publish ports of container {container_id} on network {network.name}: it has only its loopback interface",
        hint="choose a network driver that publishes ports, see: pe drivers",
    )

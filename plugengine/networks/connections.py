"""A container's connection to a network: what its driver was asked for, and what it made."""

from __future__ import annotations

import msgspec

from plugengine.model import Attachment, NetworkRequest
from plugengine.site import Site
from plugengine.state.container_rows import ContainerRow


def connection_of(site: Site, row: ContainerRow) -> tuple[NetworkRequest, Attachment | None] | None:
    """Return a container's connection to its network; the attachment is None where it had only begun to connect."""
    stored = row.records.get("network") or {}
    if stored.get("request"):
        made = stored.get("attachment")
        request = msgspec.convert(stored["request"], NetworkRequest)
        return request, msgspec.convert(made, Attachment) if made else None
    if row.spec.modes.get("net", "private") != "private":
        return None
    from plugengine.networks import ipam

    found = next((each for each in ipam.list_networks(site.state) if each.network.name == row.choice.joins), None)
    if found is None or found.network.driver != row.choice.network:
        return None
    request = NetworkRequest(
        container_id=row.id,
        network=found.network,
        network_record=found.record or {},
        mac=row.spec.mac_address,
        ports=row.spec.ports,
        options=row.choice.network_options,
    )
    return request, None

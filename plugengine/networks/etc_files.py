"""Write the files of /etc that a container gets from its host; their content is `etcfiles`' business."""

from __future__ import annotations

from plugengine.model import Attachment
from plugengine.networks import etc_content
from plugengine.spec import ContainerSpec
from plugengine.state.locations import Locations

NAMES = ("hosts", "hostname", "resolv.conf")


def write(
    locations: Locations,
    container_id: str,
    spec: ContainerSpec,
    *,
    hostname: str,
    attachment: Attachment | None,
    host_network: bool,
) -> None:
    """Write all three, in place: the guest has these very files mounted.

    Raises:
        UsageError: A resolver or host entry that is none.
    """
    interfaces = attachment.interfaces if attachment else ()
    contents = etc_content.contents(
        spec,
        hostname=hostname,
        addresses=[address.partition("/")[0] for interface in interfaces for address in interface.addresses],
        gateway=attachment.gateway if attachment and not host_network else None,
        dns=attachment.dns if attachment else (),
        host_network=host_network,
    )
    for name, content in contents.items():
        with open(locations.etc(container_id, name), "wb") as stream:
            stream.write(content)

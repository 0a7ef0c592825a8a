"""Write the files of /etc that a container gets from its host; their content is `etcfiles`' business."""

from __future__ import annotations

from plugengine import etcfiles
from plugengine.container import ContainerSpec
from plugengine.locate import Locations
from plugengine.model import Attachment

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
    addresses = [address.partition("/")[0] for interface in interfaces for address in interface.addresses]
    contents = {
        "hosts": etcfiles.hosts(
            hostname,
            domainname=spec.domainname,
            addresses=addresses,
            extra_hosts=spec.extra_hosts,
            gateway=_host_address(attachment, host_network=host_network),
            base=_read("/etc/hosts") if host_network else None,
        ),
        "hostname": etcfiles.hostname_file(hostname, domainname=spec.domainname),
        "resolv.conf": etcfiles.resolv_conf(
            _host_resolvers(),
            dns=spec.dns or (attachment.dns if attachment else ()),
            search=spec.dns_search,
            options=spec.dns_options,
            keep_loopback=host_network,
        ),
    }
    for name, content in contents.items():
        with open(locations.etc(container_id, name), "w", encoding="utf-8") as stream:
            stream.write(content)


def _host_address(attachment: Attachment | None, *, host_network: bool) -> str | None:
    if host_network:
        return "127.0.0.1"
    return attachment.gateway if attachment else None


def _host_resolvers() -> str:
    content = _read("/etc/resolv.conf")
    return _read(etcfiles.UPSTREAM_RESOLV_CONF) or content if etcfiles.names_only_stub(content) else content


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""

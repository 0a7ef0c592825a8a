"""The JSON shapes of networks, images and volumes in docker's API; see `container_json` for the rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from plugengine.api.container_json import LOCAL, NEVER
from plugengine.model import Attachment
from plugengine.objects import Container, LiveNetwork, NetworkDetails
from plugengine.spec import Image, ImageConfig
from plugengine.streams.logs import timestamp

if TYPE_CHECKING:
    from plugengine.volumes import Volume


def network(details: NetworkDetails, live: LiveNetwork | None = None) -> dict[str, Any]:
    """Return a network as `GET /networks/NAME` does, with the running containers on it."""
    found = details.network
    config = {"Subnet": found.subnet, "Gateway": found.gateway, "IPRange": found.ip_range}
    return {
        "Name": found.name,
        "Id": found.name,
        "Created": NEVER,
        "Scope": LOCAL,
        "Driver": found.driver,
        "EnableIPv6": False,
        "IPAM": {
            "Driver": "default",
            "Options": None,
            "Config": [{key: value for key, value in config.items() if value}] if found.subnet else [],
        },
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {
            each.id: _member(each, one.attachment)
            for each in details.containers
            for one in each.connections
            if one.network == found.name
        },
        "Options": dict(found.options),
        "Labels": {},
        # Not docker's.
        "DriverRecord": details.record,
        **({} if live is None else {"Live": _live(live)}),
    }


def _live(found: LiveNetwork) -> dict[str, Any]:
    return {
        "Links": [
            {
                "Name": each.name,
                "Kind": each.kind,
                "MacAddress": each.mac or "",
                "Mtu": each.mtu,
                "State": each.state,
                "Master": each.master or "",
                "Addresses": list(each.addresses),
            }
            for each in found.links
        ],
        "Routes": [
            {"Destination": each.destination, "Gateway": each.gateway or "", "Link": each.link} for each in found.routes
        ],
        "Neighbours": [
            {"Address": each.address, "MacAddress": each.mac or "", "Link": each.link, "State": each.state}
            for each in found.neighbours
        ],
        "Rules": [
            {"Family": each.family, "Table": each.table, "Chain": each.chain, "Text": each.text} for each in found.rules
        ],
    }


def _member(found: Container, attachment: Attachment) -> dict[str, str]:
    first = next(iter(attachment.interfaces), None)
    addresses = first.addresses if first else ()
    return {
        "Name": found.name,
        "EndpointID": "",
        "MacAddress": (first.mac if first else None) or "",
        "IPv4Address": next((each for each in addresses if ":" not in each), ""),
        "IPv6Address": next((each for each in addresses if ":" in each), ""),
    }


def image(found: Image, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return an image as `GET /images/NAME/json` does; `stored` is its OCI config, whole."""
    repositories = sorted({name.rpartition(":")[0] for name in found.names})
    return {
        "Id": found.id,
        "RepoTags": list(found.names),
        "RepoDigests": [f"{repository}@{found.digest}" for repository in repositories],
        "Parent": "",
        "Comment": str(stored.get("comment") or ""),
        "Created": found.created,
        "Container": "",
        "DockerVersion": "",
        "Author": str(stored.get("author") or ""),
        "Config": _image_config(found.config, stored.get("config") or {}),
        "Architecture": found.architecture,
        "Variant": str(stored.get("variant") or ""),
        "Os": found.os,
        "Size": found.size_bytes,
        "VirtualSize": found.size_bytes,
        "GraphDriver": {"Name": "", "Data": {}},
        "RootFS": {"Type": "layers", "Layers": list(found.diff_ids)},
        "Metadata": {"LastTagTime": NEVER},
        # Not docker's.
        "History": stored.get("history") or [],
        "LayerDirectories": list(found.layers),
    }


def _image_config(config: ImageConfig, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return docker's fields, and those of the image that only it knows."""
    shape = {
        "Hostname": "",
        "Domainname": "",
        "User": config.user,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Env": list(config.env) or None,
        "Cmd": list(config.cmd) or None,
        "Image": "",
        "Volumes": {path: {} for path in config.volumes} or None,
        "WorkingDir": config.working_dir,
        "Entrypoint": list(config.entrypoint) or None,
        "OnBuild": None,
        "Labels": dict(config.labels) or None,
    }
    return {**shape, **stored}


def volume(found: Volume, directory: str) -> dict[str, Any]:
    """Return a volume as `GET /volumes/NAME` does."""
    return {
        "CreatedAt": timestamp(found.created_ns),
        "Driver": LOCAL,
        "Labels": dict(found.labels) or None,
        "Mountpoint": directory,
        "Name": found.name,
        "Options": None,
        "Scope": LOCAL,
    }

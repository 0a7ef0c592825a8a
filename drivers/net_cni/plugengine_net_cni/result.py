"""Read what a chain of plugins answered to ADD; see the CNI specification, section 5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plugengine.model import Attachment, Interface, Port

from plugengine_net_cni.config import VERSIONS

_DEFAULT_ROUTES = ("0.0.0.0/0", "::/0")


def check(result: Mapping[str, Any]) -> None:
    """Raise ValueError for a result of another version, or one that is not formed like any."""
    version = result.get("cniVersion", VERSIONS[0])
    if version not in VERSIONS:
        raise ValueError(f"result of version {version}, not one of {', '.join(VERSIONS)}")
    for key in ("interfaces", "ips", "routes"):
        entries = result.get(key) or []
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"{key}: not a list of objects")
    for entry in result.get("ips") or []:
        if not isinstance(entry.get("address"), str):
            raise ValueError(f"ips: {entry}: no address")  # noqa: TRY004 - of what was read
        number = entry.get("interface")
        if number is not None and not 0 <= number < len(result.get("interfaces") or []):
            raise ValueError(f"ips: {entry['address']}: interface {number} is not in the list")
    if not isinstance(result.get("dns") or {}, dict):
        raise ValueError("dns: not an object")  # noqa: TRY004 - of what was read


def attachment(
    result: Mapping[str, Any], *, ifname: str, ports: tuple[Port, ...], record: Mapping[str, Any]
) -> Attachment:
    """Return a result in the engine's words."""
    return Attachment(
        interfaces=_inside(result, ifname),
        gateway=_gateway(result),
        dns=tuple(map(str, (result.get("dns") or {}).get("nameservers") or ())),
        ports=ports,
        record=record,
    )


def in_sandbox(result: Mapping[str, Any], netns: str) -> dict[str, Any]:
    """Return a result for another way to the same namespace: plugins compare it with CNI_NETNS."""
    interfaces = [
        {**entry, "sandbox": netns} if entry.get("sandbox") else entry for entry in result.get("interfaces") or []
    ]
    return {**result, "interfaces": interfaces} if interfaces else dict(result)


def _inside(result: Mapping[str, Any], ifname: str) -> tuple[Interface, ...]:
    """Return the interfaces in the container, the asked for one first; a result need not list them."""
    ips = result.get("ips") or []
    entries = list(enumerate(result.get("interfaces") or []))
    inside = [(number, entry) for number, entry in entries if entry.get("sandbox")]
    if not inside:
        return (Interface(name=ifname, addresses=tuple(ip["address"] for ip in ips)),) if ips else ()
    inside.sort(key=lambda each: each[1].get("name") != ifname)
    first = inside[0][0]
    return tuple(
        Interface(
            name=str(entry.get("name", ifname)),
            mac=entry.get("mac") or None,
            addresses=tuple(ip["address"] for ip in ips if ip.get("interface", first) == number),
            mtu=entry.get("mtu") or None,
        )
        for number, entry in inside
    )


def _gateway(result: Mapping[str, Any]) -> str | None:
    for route in result.get("routes") or []:
        if route.get("dst") in _DEFAULT_ROUTES and route.get("gw"):
            return str(route["gw"])
    for ip in result.get("ips") or []:
        if ip.get("gateway"):
            return str(ip["gateway"])
    return None

"""Content of a container's /etc/hosts, /etc/hostname and /etc/resolv.conf; docker's rules, pure but for `contents`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Final

from plugengine.errors import UsageError
from plugengine.spec import ContainerSpec

HOST_GATEWAY: Final = "host-gateway"
# systemd-resolved's own list, for a host whose /etc/resolv.conf names only its stub on 127.0.0.53; resolved(8).
UPSTREAM_RESOLV_CONF: Final = "/run/systemd/resolve/resolv.conf"
# As docker: where the host's resolvers are all on its loopback, a container would have none.
FALLBACK_RESOLVERS: Final = ("8.8.8.8", "8.8.4.4")

_LOCALHOST: Final = "127.0.0.1"
_LOCAL_HOSTS: Final = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
_MAX_SEARCH: Final = 32


def contents(
    spec: ContainerSpec,
    *,
    hostname: str,
    addresses: Sequence[str] = (),
    gateway: str | None = None,
    dns: Sequence[str] = (),
    host_network: bool = False,
) -> dict[str, bytes]:
    """Return the three files by their name in /etc; reads the host's own where the rules want them.

    Args:
        spec: What the caller asked for.
        hostname: Of the container.
        addresses: Its own, without a prefix length.
        gateway: The host as the container sees it.
        dns: Resolvers of the network, unless the caller gave some.
        host_network: The container is in the host's network namespace.

    Raises:
        UsageError: See `hosts` and `resolv_conf`.
    """
    names = hosts(
        hostname,
        domainname=spec.domainname,
        addresses=addresses,
        extra_hosts=spec.extra_hosts,
        gateway=_LOCALHOST if host_network and gateway is None else gateway,
        base=_read("/etc/hosts") if host_network else None,
    )
    resolvers = resolv_conf(
        _host_resolvers(host_network=host_network),
        dns=spec.dns or dns,
        search=spec.dns_search,
        options=spec.dns_options,
        keep_loopback=host_network,
    )
    found = {
        "hosts": names,
        "hostname": hostname_file(hostname, domainname=spec.domainname),
        "resolv.conf": resolvers,
    }
    return {name: os.fsencode(content) for name, content in found.items()}


def _host_resolvers(*, host_network: bool) -> str:
    content = _read("/etc/resolv.conf")
    if host_network or not names_only_stub(content):
        return content
    return _read(UPSTREAM_RESOLV_CONF) or content


def _read(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return os.fsdecode(stream.read())
    except FileNotFoundError:
        return ""


def hosts(
    hostname: str,
    *,
    domainname: str | None = None,
    addresses: Iterable[str] = (),
    extra_hosts: Iterable[str] = (),
    gateway: str | None = None,
    base: str | None = None,
) -> str:
    """Return /etc/hosts.

    Args:
        hostname: Of the container.
        domainname: Its domain, if any.
        addresses: Its own, without a prefix length.
        extra_hosts: `--add-host`, "name:ip" or "name=ip"; "host-gateway" as ip is the host.
        gateway: The host as the container sees it.
        base: The host's own file, for a container in its network namespace; None: the usual lines.

    Raises:
        UsageError: An entry that is none, or host-gateway without a gateway.
    """
    lines = [_LOCAL_HOSTS if base is None else base if base.endswith("\n") or not base else base + "\n"]
    for entry in extra_hosts:
        name, address = parse_host(entry, gateway=gateway)
        lines.append(f"{address}\t{name}\n")
    names = f"{hostname}.{domainname} {hostname}" if domainname else hostname
    lines += [f"{address}\t{names}\n" for address in addresses]
    return "".join(lines)


def parse_host(entry: str, *, gateway: str | None = None) -> tuple[str, str]:
    """Return (name, address) of one `--add-host`.

    Raises:
        UsageError: Not a name and an address, or host-gateway without a gateway.
    """
    at = min((place for place in (entry.find(":"), entry.find("=")) if place >= 0), default=-1)
    name, address = (entry[:at], entry[at + 1 :]) if at >= 0 else (entry, "")
    if address == HOST_GATEWAY:
        if gateway is None:
            raise UsageError(f"--add-host {entry}: the container's network has no gateway to the host")
        address = gateway
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if not name or not _is_word(name) or not _is_address(address):
        raise UsageError(f"--add-host {entry!r}: not name:address", hint="such as db:10.0.0.2 or host:host-gateway")
    return name, address


def hostname_file(hostname: str, *, domainname: str | None = None) -> str:
    """Return /etc/hostname."""
    return f"{hostname}.{domainname}\n" if domainname else f"{hostname}\n"


def resolv_conf(
    host: str,
    *,
    dns: Sequence[str] = (),
    search: Sequence[str] = (),
    options: Sequence[str] = (),
    keep_loopback: bool = False,
) -> str:
    """Return /etc/resolv.conf; see resolv.conf(5).

    Args:
        host: The host's file. Its resolvers on 127.0.0.0/8 and ::1 are left out, as the container's loopback is its
            own; where none is left, public ones stand in.
        dns: `--dns`, or the network's; replaces the host's resolvers.
        search: `--dns-search`; replaces the host's, "." stands for none.
        options: `--dns-option`; replaces the host's.
        keep_loopback: The container is in the host's network namespace.

    Raises:
        UsageError: A resolver that is no address, a domain or option with white space.
    """
    theirs = _parse(host)
    resolvers = [_checked_resolver(each) for each in dns] or [
        each for each in theirs["nameserver"] if keep_loopback or not _is_loopback(each)
    ]
    if not resolvers and not keep_loopback:
        resolvers = list(FALLBACK_RESOLVERS)
    domains = [_checked_word("--dns-search", each) for each in search if each != "."] if search else theirs["search"]
    settings = [_checked_word("--dns-option", each) for each in options] if options else theirs["options"]
    lines = [f"nameserver {each}\n" for each in resolvers]
    if domains:
        lines.append(f"search {' '.join(domains[:_MAX_SEARCH])}\n")
    if settings:
        lines.append(f"options {' '.join(settings)}\n")
    return "".join(lines)


def names_only_stub(host: str) -> bool:
    """Tell whether all resolvers of a host are on its loopback, so that `UPSTREAM_RESOLV_CONF` is to be read."""
    resolvers = _parse(host)["nameserver"]
    return bool(resolvers) and all(_is_loopback(each) for each in resolvers)


def _parse(content: str) -> dict[str, list[str]]:
    """Return the words by keyword; `domain` is an old form of `search`, and the last of the two counts."""
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    for line in content.splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        if words[0] == "nameserver" and len(words) > 1 and _is_address(words[1]):
            found["nameserver"].append(words[1])
        elif words[0] in {"search", "domain"}:
            found["search"] = words[1:]
        elif words[0] == "options":
            found["options"] += words[1:]
    return found


def _checked_resolver(address: str) -> str:
    if not _is_address(address):
        raise UsageError(f"--dns {address!r}: not an IP address")
    return address


def _checked_word(flag: str, word: str) -> str:
    if not word or not _is_word(word):
        raise UsageError(f"{flag} {word!r}: not one word")
    return word


def _is_word(text: str) -> bool:
    """Tell whether the text can stand in a line without becoming two words or two lines."""
    return text.isprintable() and " " not in text and "#" not in text


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def _is_address(text: str) -> bool:
    import socket

    plain, percent, zone = text.partition("%")
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, plain)
        except (OSError, ValueError):
            continue
        return not percent or (family == socket.AF_INET6 and bool(zone) and _is_word(zone))
    return False

"""Links of the host through pyroute2, whose errors become OSError about the link; not imported for a container."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_IFF_UP = 1  # include/uapi/linux/if.h


class Link(NamedTuple):
    """One link of the host."""

    number: int
    name: str
    alias: str
    master: int
    mtu: int
    up: bool


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Turn the library's errors into OSError about a thing of a name."""
    try:
        yield
    except NetlinkError as exc:
        raise OSError(exc.code, os.strerror(exc.code), what) from exc


def find_all(ip: IPRoute) -> list[Link]:
    """Return every link."""
    return [_link(message) for message in ip.get_links()]


def find(ip: IPRoute, name: str) -> Link | None:
    """Return one link by name; None: there is none."""
    try:
        with naming(name):
            return next((_link(message) for message in ip.link("get", ifname=name)), None)
    except OSError as exc:
        if exc.errno == errno.ENODEV:
            return None
        raise


def make(ip: IPRoute, name: str, mark: str, **attributes: Any) -> Link | None:
    """Make a link, down, and mark it; return it, or None if the kernel says that there is one, but not of this name.

    Whoever is killed in between leaves a link without a mark. The next to make it marks it: nobody else makes such
    names.
    """
    try:
        with naming(name):
            ip.link("add", ifname=name, **attributes)
    except OSError as exc:
        if exc.errno != errno.EEXIST:
            raise
    found = find(ip, name)
    if found is not None and not found.alias:
        with naming(name):
            ip.link("set", index=found.number, ifalias=mark)
    return find(ip, name)


def raise_up(ip: IPRoute, link: Link) -> None:
    """Set a link up."""
    with naming(link.name):
        ip.link("set", index=link.number, state="up")


def delete(ip: IPRoute, name: str) -> None:
    """Delete a link; one that is not there counts as deleted."""
    found = find(ip, name)
    if found is None:
        return
    try:
        with naming(name):
            ip.link("del", index=found.number)
    except OSError as exc:
        if exc.errno != errno.ENODEV:
            raise


def _link(message: Any) -> Link:
    return Link(
        number=message["index"],
        name=message.get("ifname") or "",
        alias=message.get("ifalias") or "",
        master=message.get("master") or 0,
        mtu=message.get("mtu") or 0,
        up=bool(message["flags"] & _IFF_UP),
    )

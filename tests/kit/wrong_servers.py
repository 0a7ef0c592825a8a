"""File servers that are wrong on purpose: each is the one of fuse_union with one thing spoilt."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import ClassVar

from msgspec.structs import replace
from plugengine_fuse_union import attributes, privileges, replies, server

from plugengine.model import Record, Rootfs, StorageRequest
from tests.kit.wrong_storage import GoodServer


class SpoilsServer(GoodServer):
    """Has its server run by a function of this module."""

    entry: ClassVar[str]

    def mounts(self, request: StorageRequest, record: Record) -> Rootfs:
        rootfs = super().mounts(request, record)
        assert rootfs.server is not None
        return replace(rootfs, server=replace(rootfs.server, entry=f"{__name__}:{self.entry}"))


class KeepsWhatItWasToldOnce(SpoilsServer):
    """Lets the kernel keep attributes of files that it writes by itself."""

    entry = "serve_for_good"


def serve_for_good(config: Record, ready: Callable[[], None]) -> int:
    """Serve, and take every file for one that rests."""
    vars(replies).update(is_restless=lambda _union, _node: False)
    return server.serve(config, ready)


class LeavesAtOnce(SpoilsServer):
    """Ends its process in the middle of its work, once it is unmounted."""

    entry = "serve_and_leave"


def serve_and_leave(config: Record, ready: Callable[[], None]) -> int:
    """Serve, and leave without a word."""
    server.serve(config, ready)
    os._exit(7)


class KeepsSetId(SpoilsServer):
    """Clears no set-id bits, whoever writes."""

    entry = "serve_carelessly"


def serve_carelessly(config: Record, ready: Callable[[], None]) -> int:
    """Serve, and take everybody for one who may keep them."""

    def left_by(_union: object, status: os.stat_result, _requester: object) -> int:
        return status.st_mode

    for module in (privileges, attributes):
        vars(module).update(left_by=left_by)
    return server.serve(config, ready)

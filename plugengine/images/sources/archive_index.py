"""What the table of contents of an image archive says, in whichever format it was."""

from __future__ import annotations

from msgspec import Struct


class Part(Struct, frozen=True, kw_only=True):
    """Where one layer is in the archive, and what must be true of its stored bytes."""

    name: str
    digest: str | None = None  # docker-archive: unknown, the diff id alone is checked
    size: int | None = None


class Found(Struct, frozen=True, kw_only=True):
    """One image of an archive, its manifest and config read and checked."""

    config: bytes
    layers: tuple[Part, ...]
    names: tuple[str, ...]
    manifest: bytes | None = None  # None: it gets one of our own

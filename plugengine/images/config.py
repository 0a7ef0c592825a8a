"""Read and write the config of an image; see OCI image-spec, config.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import DecodeError
from msgspec.json import decode, encode

from plugengine.errors import ImageError
from plugengine.images.digest import is_digest
from plugengine.images.tar.limits import LAYERS
from plugengine.kernel import machine
from plugengine.model import GuestPath
from plugengine.spec import ImageConfig

EPOCH = "1970-01-01T00:00:00Z"


def parse_config(content: bytes, what: str) -> dict[str, Any]:
    """Parse and check the config of an image that was just read from an archive.

    Raises:
        ImageError: It is no JSON object, a member has the wrong type, or it has more layers than overlayfs takes.
    """
    from plugengine.images.config_schema import check

    data = load_object(content, what)
    check(data, what)
    diff_ids = data["rootfs"]["diff_ids"]
    if not all(map(is_digest, diff_ids)):
        raise ImageError(f"{what}: rootfs.diff_ids is not a list of sha256 digests")
    if len(diff_ids) > LAYERS:
        raise ImageError(f"{what}: has {len(diff_ids)} layers, more than the {LAYERS} that overlayfs takes")
    return data


def load_object(content: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object. Raises: ImageError."""
    try:
        data = decode(content)
    except (DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ImageError(f"{what}: not JSON: {exc}") from exc
    if not isinstance(data, dict):
        raise ImageError(f"{what}: not a JSON object")
    return data


def image_config(data: Mapping[str, Any]) -> ImageConfig:
    """Return what the engine honours of a config that `parse_config` has checked."""
    config = data.get("config") or {}
    exposed = sorted(config.get("ExposedPorts") or ())
    return ImageConfig(
        entrypoint=tuple(config.get("Entrypoint") or ()),
        cmd=tuple(config.get("Cmd") or ()),
        env=tuple(entry for entry in config.get("Env") or () if "=" in entry[1:]),
        working_dir=config.get("WorkingDir") or "",
        user=config.get("User") or "",
        volumes=tuple(map(GuestPath, sorted(config.get("Volumes") or ()))),
        # image-spec, config.md: without a protocol it is tcp
        exposed_ports=tuple(port if "/" in port else f"{port}/tcp" for port in exposed),
        stop_signal=config.get("StopSignal") or "",
        labels=config.get("Labels") or {},
    )


def make_config(
    *,
    diff_ids: Sequence[str],
    created: str,
    created_by: str,
    config: Mapping[str, Any],
    architecture: str | None = None,
) -> bytes:
    """Return a config of our own; the same arguments give the same bytes."""
    data = {
        "architecture": architecture or machine.architecture(),
        "config": dict(config),
        "created": created,
        "history": [{"created": created, "created_by": created_by}],
        "os": "linux",
        "rootfs": {"diff_ids": list(diff_ids), "type": "layers"},
    }
    return canonical(data)


def canonical(data: Mapping[str, Any]) -> bytes:
    """Return JSON that does not depend on the order of insertion."""
    return encode(data, order="sorted")

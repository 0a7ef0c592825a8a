"""Read and write the config of an image; see OCI image-spec, config.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import DecodeError
from msgspec.json import decode, encode

from plugengine.errors import ImageError
from plugengine.images.digest import is_digest
from plugengine.model import GuestPath
from plugengine.spec import ImageConfig

# OCI calls machines as Go does.
ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "ppc64le": "ppc64le",
    "riscv64": "riscv64",
    "s390x": "s390x",
    "loongarch64": "loong64",
}
EPOCH = "1970-01-01T00:00:00Z"


def parse_config(content: bytes, what: str) -> dict[str, Any]:
    """Parse and check the config of an image that was just read from an archive.

    Raises:
        ImageError: It is no JSON object, or a member the engine relies on has the wrong type.
    """
    data = load_object(content, what)
    rootfs = data.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or not all(map(is_digest, diff_ids)):
        raise ImageError(f"{what}: rootfs.diff_ids is not a list of sha256 digests")
    for name in ("architecture", "os", "created"):
        if not isinstance(data.get(name) or "", str):
            raise ImageError(f"{what}: {name} is not a string")
    image_config(data, what)
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


def image_config(data: Mapping[str, Any], what: str) -> ImageConfig:
    """Return what the engine honours of a config. Raises: ImageError naming the member of the wrong type."""
    config = data.get("config") or {}
    if not isinstance(config, dict):
        raise ImageError(f"{what}: config is not an object")
    labels = config.get("Labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise ImageError(f"{what}: Labels is not an object of strings")
    env = _strings(config, "Env", what)
    return ImageConfig(
        entrypoint=_strings(config, "Entrypoint", what),
        cmd=_strings(config, "Cmd", what),
        env=tuple(entry for entry in env if "=" in entry[1:]),
        working_dir=_string(config, "WorkingDir", what),
        user=_string(config, "User", what),
        volumes=tuple(GuestPath(path) for path in _keys(config, "Volumes", what)),
        # image-spec, config.md: without a protocol it is tcp
        exposed_ports=tuple(port if "/" in port else f"{port}/tcp" for port in _keys(config, "ExposedPorts", what)),
        stop_signal=_string(config, "StopSignal", what),
        labels=labels,
    )


def _string(config: Mapping[str, Any], name: str, what: str) -> str:
    value = config.get(name) or ""
    if not isinstance(value, str) or "\0" in value:
        raise ImageError(f"{what}: {name} is not a string")
    return value


def _strings(config: Mapping[str, Any], name: str, what: str) -> tuple[str, ...]:
    value = config.get(name) or []
    if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
        raise ImageError(f"{what}: {name} is not a list of strings")
    return tuple(value)


def _keys(config: Mapping[str, Any], name: str, what: str) -> tuple[str, ...]:
    value = config.get(name) or {}
    if not isinstance(value, dict) or any("\0" in key for key in value):
        raise ImageError(f"{what}: {name} is not an object")
    return tuple(sorted(value))


def machine_architecture() -> str:
    """Return this machine's architecture in OCI's words."""
    import os

    machine = os.uname().machine
    return ARCHITECTURES.get(machine, machine)


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
        "architecture": architecture or machine_architecture(),
        "config": config,
        "created": created,
        "history": [{"created": created, "created_by": created_by}],
        "os": "linux",
        "rootfs": {"diff_ids": list(diff_ids), "type": "layers"},
    }
    return canonical(data)


def canonical(data: Mapping[str, Any]) -> bytes:
    """Return JSON that does not depend on the order of insertion."""
    return encode(data, order="sorted")

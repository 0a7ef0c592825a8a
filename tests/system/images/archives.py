"""Write docker-archives and OCI archives by hand, so that each part of them can be damaged."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from typing import Any

from plugengine.kernel.machine import architecture
from tests.unit.images.tars import make_tar, member, zstd

OCI = "application/vnd.oci.image"
MANIFEST_TYPE = f"{OCI}.manifest.v1+json"
INDEX_TYPE = f"{OCI}.index.v1+json"

LOW = make_tar([member("etc", "directory"), member("etc/motd", content=b"low\n"), member("gone", content=b"x")])
HIGH = make_tar([member("etc/motd", content=b"high\n"), member(".wh.gone")])
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "+gzip": gzip.compress,
    "+zstd": zstd.compress,
}


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def config(*layers: bytes, **changes: Any) -> dict[str, Any]:
    """Return the config of an image of these plain layers."""
    return {
        "architecture": architecture(),
        "os": "linux",
        "created": "2024-01-02T03:04:05Z",
        "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"], "Labels": {"k": "v"}},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        **changes,
    }


def encoded(data: Any) -> bytes:
    return json.dumps(data).encode()


def pack(parts: dict[str, bytes]) -> bytes:
    """Return a tar of files."""
    return make_tar([member(name, content=content) for name, content in parts.items()])


def docker_parts(
    *layers: bytes, tags: list[str] | None = None, compression: str = "", **changes: Any
) -> dict[str, bytes]:
    """Return the files of a `docker save`."""
    body = encoded(config(*layers, **changes))
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    name = f"{hashlib.sha256(body).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": ["web:1"] if tags is None else tags, "Layers": names}]
    stored = {one: PACK[compression](layer) for one, layer in zip(names, layers, strict=True)}
    return {**stored, name: body, "manifest.json": encoded(manifest)}


def descriptor(content: bytes, media_type: str, **members: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(content), "size": len(content), **members}


def blob(content: bytes) -> tuple[str, bytes]:
    return f"blobs/sha256/{digest(content)[7:]}", content


def oci_parts(
    *layers: bytes, name: str | None = "web:1", compression: str = "", manifest: dict[str, Any] | None = None
) -> dict[str, bytes]:
    """Return the files of an OCI layout; `manifest` replaces members of the manifest."""
    body = encoded(config(*layers))
    stored = [PACK[compression](layer) for layer in layers]
    data = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(body, f"{OCI}.config.v1+json"),
        "layers": [descriptor(one, f"{OCI}.layer.v1.tar{compression}") for one in stored],
        **(manifest or {}),
    }
    content = encoded(data)
    annotations = {"annotations": {"org.opencontainers.image.ref.name": name}} if name else {}
    return {
        "oci-layout": encoded({"imageLayoutVersion": "1.0.0"}),
        "index.json": index(descriptor(content, MANIFEST_TYPE, **annotations)),
        **dict(map(blob, [body, content, *stored])),
    }


def index(*manifests: dict[str, Any]) -> bytes:
    return encoded({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": list(manifests)})

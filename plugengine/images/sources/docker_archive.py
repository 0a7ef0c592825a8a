"""Read the table of contents of `docker save`: manifest.json names config, layers and tags of each image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import DecodeError
from msgspec.json import decode

from plugengine.errors import ImageError
from plugengine.images.digest import digest_of, is_hex
from plugengine.images.sources.archive_index import Found, Part, check_count
from plugengine.images.sources.members import read_small
from plugengine.images.tar.limits import CONFIG_BYTES, MANIFEST_BYTES

if TYPE_CHECKING:
    from plugengine.images.sources.members import Members


def read(members: Members) -> list[Found]:
    """Return the images of the archive. Raises: ImageError."""
    what = f"{members.what}: manifest.json"
    try:
        entries = decode(read_small(members, "manifest.json", MANIFEST_BYTES))
    except (DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ImageError(f"{what}: not JSON: {exc}") from exc
    if not isinstance(entries, list) or not entries:
        raise ImageError(f"{what}: names no image")
    check_count(len(entries), what)
    return [_image(members, entry, what) for entry in entries]


def _image(members: Members, entry: Any, what: str) -> Found:
    config_name = entry.get("Config") if isinstance(entry, dict) else None
    if not isinstance(config_name, str):
        raise ImageError(f"{what}: an image without a config")
    config = read_small(members, config_name, CONFIG_BYTES)
    _check_name(config_name, config, members.what)
    layers = tuple(Part(name=name) for name in _strings(entry, "Layers", what))
    for part in layers:
        if not members.has(part.name):
            raise ImageError(f"{members.what}: {part.name} is missing")
    return Found(config=config, layers=layers, names=_strings(entry, "RepoTags", what))


def _check_name(name: str, config: bytes, what: str) -> None:
    """The config is named after its digest, in every version of the format."""
    stem = name.rpartition("/")[2].removesuffix(".json")
    if len(stem) == len(digest_of(b"")) - len("sha256:") and is_hex(stem) and digest_of(config) != f"sha256:{stem}":
        raise ImageError(f"{what}: config {name}: its digest is {digest_of(config)}")


def _strings(entry: dict[str, Any], name: str, what: str) -> tuple[str, ...]:
    value = entry.get(name)
    value = [] if value is None else value
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ImageError(f"{what}: {name} is not a list of strings")
    return tuple(value)

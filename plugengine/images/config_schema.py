"""The members of an image's config and their types; see OCI image-spec, config.md, and `docker image inspect`."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct, field

from plugengine.errors import ImageError

Text = str | None  # JSON's null is the same as none
Texts = list[str] | None
Names = dict[str, dict[str, Any] | None] | None  # Go's way to write a set


class Healthcheck(Struct, rename="pascal"):
    """`Healthcheck`; times in nanoseconds."""

    test: Texts = None
    interval: int | None = None
    timeout: int | None = None
    start_period: int | None = None
    start_interval: int | None = None
    retries: int | None = None


class Config(Struct, rename="pascal"):
    """`config`: what a container is started with; members only docker knows are at the end."""

    user: Text = None
    exposed_ports: Names = None
    env: Texts = None
    entrypoint: Texts = None
    cmd: Texts = None
    volumes: Names = None
    working_dir: Text = None
    labels: dict[str, str] | None = None
    stop_signal: Text = None
    args_escaped: bool | None = None
    healthcheck: Healthcheck | None = None
    on_build: Texts = None
    shell: Texts = None
    stop_timeout: int | None = None
    hostname: Text = None
    domainname: Text = None
    image: Text = None
    mac_address: Text = None
    network_disabled: bool | None = None
    tty: bool | None = None
    open_stdin: bool | None = None
    stdin_once: bool | None = None
    attach_stdin: bool | None = None
    attach_stdout: bool | None = None
    attach_stderr: bool | None = None


class RootFS(Struct):
    """`rootfs`: the layers, lowest first."""

    diff_ids: list[str]
    type: Text = None


class History(Struct):
    """One line of `history`."""

    created: Text = None
    created_by: Text = None
    author: Text = None
    comment: Text = None
    empty_layer: bool | None = None


class Document(Struct):
    """A whole config."""

    rootfs: RootFS
    config: Config | None = None
    architecture: Text = None
    variant: Text = None
    os: Text = None
    os_version: Text = field(name="os.version", default=None)
    os_features: Texts = field(name="os.features", default=None)
    created: Text = None
    author: Text = None
    comment: Text = None
    history: list[History] | None = None


def check(data: dict[str, Any], what: str) -> None:
    """Make sure that every member of a config has its type; those not known here are left alone.

    Raises:
        ImageError: One has another type, or holds a NUL, which no argument, name or variable can; says which.
    """
    try:
        msgspec.convert(data, Document)
    except msgspec.ValidationError as exc:
        reason, _, path = str(exc).partition(" - at `")
        place = path.removesuffix("`").removeprefix("$").removeprefix(".")
        raise ImageError(f"{what}: {place + ': ' if place else ''}{_lowered(reason)}") from exc
    config = data.get("config") or {}
    for name in Config.__struct_encode_fields__:
        if any("\0" in text for text in _texts(config.get(name))):
            raise ImageError(f"{what}: config.{name}: holds a NUL character")


def _lowered(reason: str) -> str:
    return reason[:1].lower() + reason[1:].replace("`", "")


def _texts(value: Any) -> list[str]:
    """Return the strings of one member of a config, of whichever type."""
    members = [*value, *value.values()] if isinstance(value, dict) else [value]
    flat = (member if isinstance(member, list) else [member] for member in members)
    return [text for texts in flat for text in texts if isinstance(text, str)]

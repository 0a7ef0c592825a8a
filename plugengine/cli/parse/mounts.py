"""Read `-v`, `--mount` and `--tmpfs`."""

from __future__ import annotations

import posixpath
from typing import Any, Final

from plugengine.cli.parse.errors import FlagError
from plugengine.cli.parse.quantities import parse_bool, parse_size
from plugengine.model import GuestPath
from plugengine.spec import VolumeMount

PROPAGATIONS: Final = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
# Without SELinux, and on a host's own kernel, these say nothing; scripts carry them along.
_WITHOUT_MEANING: Final = ("z", "Z", "cached", "delegated", "consistent", "default")
_VOLUME_EXAMPLE: Final = "./data:/data:ro"
_MOUNT_EXAMPLE: Final = "type=bind,source=/srv,target=/srv,readonly"
_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_ALIASES: Final = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_KEYS: Final = (
    "type",
    "source",
    "target",
    "readonly",
    "consistency",
    "bind-propagation",
    "bind-recursive",
    "bind-nonrecursive",
    "bind-create-src",
    "volume-nocopy",
    "volume-subpath",
    "tmpfs-size",
    "tmpfs-mode",
)


def parse_volume(flag: str, text: str, *, directory: str) -> VolumeMount:
    """Return the mount of `[source:]target[:options]`.

    Args:
        flag: For messages.
        text: The value; the source is a path, when it begins with "/" or ".", else the name of a volume.
        directory: What a relative source is relative to.

    Raises:
        FlagError: A part is missing or not understood.
    """
    parts = text.split(":")
    if len(parts) > 3:
        raise FlagError(flag, text, "more than three parts", example=_VOLUME_EXAMPLE)
    if len(parts) == 1:
        return VolumeMount(type="volume", target=_target(flag, text, parts[0], _VOLUME_EXAMPLE))
    source, target = parts[0], _target(flag, text, parts[1], _VOLUME_EXAMPLE)
    if not source:
        raise FlagError(flag, text, "no source before the colon", example=_VOLUME_EXAMPLE)
    options = _volume_options(flag, text, parts[2] if len(parts) == 3 else "")
    if source.startswith(("/", ".")):
        if options.pop("no_copy", False):
            raise FlagError(flag, text, "nocopy is for volumes, this is a bind mount", example="data:/data:nocopy")
        return VolumeMount(
            type="bind", target=target, source=_absolute(source, directory), create_source=True, **options
        )
    if "propagation" in options:
        raise FlagError(flag, text, "propagation is for bind mounts, this is a volume", example="/srv:/srv:rshared")
    return VolumeMount(type="volume", target=target, source=check_volume_name(flag, source), **options)


def check_volume_name(flag: str, name: str) -> str:
    """Return the name of a volume, or raise FlagError."""
    if not name[:1].isalnum() or not set(name) <= _NAME_CHARACTERS:
        raise FlagError(
            flag,
            name,
            "neither a path that begins with / or . nor a volume's name of a-z A-Z 0-9 _ . -",
            example=_VOLUME_EXAMPLE,
        )
    return name


def _volume_options(flag: str, text: str, options: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in filter(None, options.split(",")):
        if word in ("ro", "rw"):
            found["read_only"] = word == "ro"
        elif word == "nocopy":
            found["no_copy"] = True
        elif word in PROPAGATIONS:
            found["propagation"] = word
        elif word not in _WITHOUT_MEANING:
            known = ", ".join(("ro", "rw", "nocopy", *PROPAGATIONS))
            raise FlagError(flag, text, f"unknown option {word}: not {known}", example=_VOLUME_EXAMPLE)
    return found


def _target(flag: str, text: str, target: str, example: str) -> GuestPath:
    if not target.startswith("/"):
        raise FlagError(flag, text, f"the target {target or '(empty)'} is not an absolute path", example=example)
    if posixpath.normpath("/" + target.lstrip("/")) == "/":
        raise FlagError(flag, text, "the target is the root directory", example=example)
    return GuestPath(target)


def _absolute(source: str, directory: str) -> str:
    return posixpath.normpath(posixpath.join(directory, source))


def parse_tmpfs(flag: str, text: str) -> VolumeMount:
    """Return the mount of `target[:option,…]`; the options are those of tmpfs(5) and mount(8).

    Raises:
        FlagError: The target is not an absolute path.
    """
    target, _, words = text.partition(":")
    options: list[tuple[str, str | None]] = []
    for word in filter(None, words.split(",")):
        name, equals, value = word.partition("=")
        options.append((name, value if equals else None))
    return VolumeMount(type="tmpfs", target=_target(flag, text, target, "/run:size=64m"), options=tuple(options))


def parse_mount(flag: str, text: str, *, directory: str) -> VolumeMount:
    """Return the mount of `type=…,source=…,target=…`.

    Args:
        flag: For messages.
        text: Comma separated fields, in quotes where they hold commas.
        directory: What a relative source is relative to.

    Raises:
        FlagError: A key is unknown, missing, or belongs to another type.
    """
    fields = _fields(flag, text)
    kind = fields.get("type", "volume")
    if kind not in ("bind", "volume", "tmpfs"):
        raise FlagError(flag, text, f"type {kind} is not bind, volume or tmpfs", example=_MOUNT_EXAMPLE)
    if "target" not in fields:
        raise FlagError(flag, text, "no target", example=_MOUNT_EXAMPLE)
    for key in fields:
        owner = key.partition("-")[0]
        if owner in ("bind", "volume", "tmpfs") and owner != kind:
            raise FlagError(flag, text, f"{key} is not for type {kind}", example=_MOUNT_EXAMPLE)
    common: dict[str, Any] = {
        "type": kind,
        "target": _target(flag, text, fields["target"], _MOUNT_EXAMPLE),
        "read_only": _flag(flag, fields, "readonly"),
    }
    if kind == "bind":
        return _bind(flag, text, fields, common, directory)
    if kind == "tmpfs":
        return _tmpfs(flag, text, fields, common)
    source = fields.get("source", "")
    return VolumeMount(
        **common,
        source=check_volume_name(flag, source) if source else "",
        no_copy=_flag(flag, fields, "volume-nocopy"),
        subpath=fields.get("volume-subpath", ""),
    )


def _fields(flag: str, text: str) -> dict[str, str]:
    if '"' in text:
        import csv

        try:
            parts = next(csv.reader([text], strict=True))
        except csv.Error as exc:
            raise FlagError(flag, text, f"not comma separated fields: {exc}", example=_MOUNT_EXAMPLE) from exc
    else:
        parts = text.split(",")
    fields: dict[str, str] = {}
    for part in parts:
        word, equals, value = part.partition("=")
        key = _ALIASES.get(word.strip().lower(), word.strip().lower())
        if key not in _KEYS:
            import difflib

            close = difflib.get_close_matches(key, (*_KEYS, *_ALIASES), n=1)
            guess = f", did you mean {close[0]}?" if close else ""
            raise FlagError(flag, text, f"unknown key {word or '(empty)'}{guess}", example=_MOUNT_EXAMPLE)
        fields[key] = value if equals else "true"
    return fields


def _flag(flag: str, fields: dict[str, str], key: str) -> bool:
    return parse_bool(f"{flag} {key}", fields.get(key, "false"))


def _bind(flag: str, text: str, fields: dict[str, str], common: dict[str, Any], directory: str) -> VolumeMount:
    source = fields.get("source", "")
    if not source.startswith(("/", ".")):
        raise FlagError(flag, text, "a bind mount needs a source path that begins with / or .", example=_MOUNT_EXAMPLE)
    propagation = fields.get("bind-propagation", "rprivate")
    if propagation not in PROPAGATIONS:
        raise FlagError(flag, text, f"bind-propagation {propagation} is not one of {', '.join(PROPAGATIONS)}")
    recursive = fields.get("bind-recursive", "enabled")
    if recursive not in ("enabled", "disabled"):
        raise FlagError(flag, text, f"bind-recursive {recursive} is not enabled or disabled")
    return VolumeMount(
        **common,
        source=_absolute(source, directory),
        propagation=propagation,
        recursive=recursive == "enabled" and not _flag(flag, fields, "bind-nonrecursive"),
        create_source=_flag(flag, fields, "bind-create-src"),
    )


def _tmpfs(flag: str, text: str, fields: dict[str, str], common: dict[str, Any]) -> VolumeMount:
    if "source" in fields:
        raise FlagError(flag, text, "a tmpfs has no source", example="type=tmpfs,target=/run,tmpfs-size=64m")
    options: list[tuple[str, str | None]] = []
    if "tmpfs-size" in fields:
        options.append(("size", str(parse_size(f"{flag} tmpfs-size", fields["tmpfs-size"]))))
    mode = fields.get("tmpfs-mode")
    if mode is not None:
        if not mode or not set(mode) <= set("01234567"):
            raise FlagError(
                flag, text, f"tmpfs-mode {mode} is not octal", example="type=tmpfs,target=/run,tmpfs-mode=1777"
            )
        options.append(("mode", mode))
    return VolumeMount(**common, options=tuple(options))

"""Where a container's command runs and what its environment says; docker's rules, pure."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from typing import Final

from plugengine.errors import UsageError
from plugengine.model import GuestPath
from plugengine.spec import ContainerSpec, ImageConfig

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_TERM: Final = "xterm"


def working_directory(spec: ContainerSpec, config: ImageConfig) -> GuestPath:
    """Return the absolute working directory; the image's may be relative to the root.

    Raises:
        UsageError: The caller's is relative.
    """
    if spec.working_dir:
        if not spec.working_dir.startswith("/"):
            raise UsageError(f"--workdir {spec.working_dir}: not an absolute path")
        return _normal(spec.working_dir)
    return _normal("/" + config.working_dir)


def environment(layers: Iterable[Iterable[str]], *, hostname: str, terminal: bool) -> tuple[str, ...]:
    """Return the environment: docker's defaults, then each layer of KEY=value over the one before.

    A KEY without `=` takes the variable away. HOME is the user's, see `with_home`, unless a layer has one.
    """
    found = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if terminal:
        found["TERM"] = DEFAULT_TERM
    for layer in layers:
        for entry in layer:
            key, equals, value = entry.partition("=")
            if not equals:
                found.pop(key, None)
            elif key:
                found[key] = value
    return tuple(f"{key}={value}" for key, value in found.items())


def with_home(env: tuple[str, ...], home: bytes) -> tuple[str, ...]:
    """Return the environment with the user's HOME, unless it has one."""
    if any(entry.startswith("HOME=") for entry in env):
        return env
    return (*env, f"HOME={os.fsdecode(home)}")


def _normal(path: str) -> GuestPath:
    return GuestPath(posixpath.normpath("/" + path.lstrip("/")))

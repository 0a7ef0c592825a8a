"""Where a container's command runs and what its environment says; docker's rules, pure."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from typing import Final

from plugengine.errors import UsageError
from plugengine.spec import ContainerSpec, ImageConfig

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_TERM: Final = "xterm"


def working_directory(spec: ContainerSpec, config: ImageConfig) -> str:
    """Return the absolute working directory; the image's may be relative to the root.

    Raises:
        UsageError: The caller's is relative.
    """
    if spec.working_dir:
        if not spec.working_dir.startswith("/"):
            raise UsageError(f"--workdir {spec.working_dir}: not an absolute path")
        return _normal(spec.working_dir)
    return _normal("/" + config.working_dir)


def environment(layers: Iterable[Iterable[str]], *, hostname: str, home: bytes, tty: bool) -> dict[bytes, bytes]:
    """Return the environment: docker's defaults, then each layer of KEY=value over the one before.

    A KEY without `=` takes the variable away. HOME is the user's, unless a layer has one.
    """
    result = {b"PATH": DEFAULT_PATH.encode(), b"HOSTNAME": os.fsencode(hostname)}
    if tty:
        result[b"TERM"] = DEFAULT_TERM.encode()
    for layer in layers:
        for entry in layer:
            key, equals, value = os.fsencode(entry).partition(b"=")
            if not equals:
                result.pop(key, None)
            elif key:
                result[key] = value
    result.setdefault(b"HOME", home)
    return result


def _normal(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))

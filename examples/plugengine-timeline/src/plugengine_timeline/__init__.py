"""An observer that notes when each step of a container's life begins and ends, and draws it: `pe timeline NAME`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Final

from plugengine.hookspecs import hookimpl
from plugengine.model import Event

DIRECTORY: Final = os.environ.get("PE_TIMELINE_DIRECTORY", "/run/plugengine-timeline")
_MOST_BYTES: Final = 1 << 20  # a container that is started for ever must not fill memory with its notes


@hookimpl
def pe_event(event: Event) -> None:
    """Append a line to the container's notes; in whichever process it happens, so in one write."""
    os.makedirs(DIRECTORY, 0o700, exist_ok=True)
    line = {"action": event.action, "time_ns": event.time_ns, **event.detail}
    fd = os.open(f"{DIRECTORY}/{event.container_id}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size < _MOST_BYTES:
            os.write(fd, json.dumps(line).encode() + b"\n")
    finally:
        os.close(fd)


@hookimpl
def pe_commands() -> Mapping[str, str]:
    """Offer `pe timeline`."""
    return {"timeline": "plugengine_timeline.command:timeline"}

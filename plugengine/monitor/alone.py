"""A monitor in an interpreter of its own, for callers with threads: `python -m plugengine.monitor.alone`."""

from __future__ import annotations

import os
import socket
import sys
from typing import Final

from plugengine.monitor import task
from plugengine.monitor.main import serve
from plugengine.site import Site
from plugengine.state.locations import Locations

CONNECTION: Final = 3  # descriptors the caller leaves us
TASK: Final = 4


def main(root: str, run_root: str) -> None:
    """Fork away from the caller, who waits for this process, and serve.

    Args:
        root: The engine's persistent root.
        run_root: The other one.
    """
    if os.fork() != 0:
        os._exit(0)
    site = Site(Locations.from_environment({}, root=root, run_root=run_root), environ=os.environ)
    serve(site, task.read(TASK), socket.socket(fileno=CONNECTION))


if __name__ == "__main__":
    main(*sys.argv[1:3])

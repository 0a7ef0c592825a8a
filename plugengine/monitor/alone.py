"""A monitor in an interpreter of its own, for callers with threads: `python -m plugengine.monitor.alone`."""

from __future__ import annotations

import os
import socket
import sys

from plugengine.kernel.process import ProcessId
from plugengine.monitor.main import serve
from plugengine.site import Site
from plugengine.state import container_rows
from plugengine.state.locations import Locations


def main(root: str, run_root: str, container_id: str, words: str) -> None:
    """Fork away from the caller, who waits for this process, and serve on descriptor 3.

    Args:
        root: The engine's persistent root.
        run_root: The other one.
        container_id: Whose monitor this is.
        words: "pid:start time:attach:debug" of the caller and its wishes.
    """
    if os.fork() != 0:
        os._exit(0)
    pid, start_time, attach, debug = (int(word) for word in words.split(":"))
    site = Site(Locations.from_environment({}, root=root, run_root=run_root), environ=os.environ)
    row = container_rows.get(site.state, container_id)
    serve(
        site,
        row,
        socket.socket(fileno=3),
        owner=ProcessId(pid, start_time),
        attach=bool(attach),
        debug=bool(debug),
    )


if __name__ == "__main__":
    main(*sys.argv[1:5])

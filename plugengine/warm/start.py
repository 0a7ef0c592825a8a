"""Leave a prepared process behind for the next command."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from plugengine.warm.client import MAX_PATH, address
from plugengine.warm.key import current


def start_server(argv: list[str], environ: Mapping[str, str]) -> None:
    """Start the server in the background, unless one is there; whatever prevents it is no error."""
    path = address(argv, environ, current(environ))
    if len(path) > MAX_PATH or not os.path.isdir(os.path.dirname(path)) or _is_served(path):
        return
    kept = {name: value for name, value in environ.items() if name.startswith(("PYTHON", "PLUGENGINE", "LC_", "LANG"))}
    kept["PATH"] = environ.get("PATH", os.defpath)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_spawn(
            sys.executable,
            # By its file: -m would import from the caller's directory, whatever is there.
            [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "server.py"), path],
            kept,
            file_actions=[(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)],
            setsid=True,
            setsigmask=(),
        )
    except OSError:
        return
    finally:
        os.close(null)


def _is_served(path: str) -> bool:
    """Tell whether somebody listens: a server that was killed leaves its socket behind."""
    import _socket

    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0)
    try:
        connection.connect(path)
    except OSError:
        return False
    finally:
        connection.close()
    return True

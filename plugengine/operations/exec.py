"""Run another command inside a running container."""

from __future__ import annotations

from plugengine.errors import ConflictError, UsageError
from plugengine.model import encode
from plugengine.operations.lifecycle import ask
from plugengine.site import Site
from plugengine.spec import ExecSpec
from plugengine.state.container_rows import ContainerRow
from plugengine.streams import attach_client
from plugengine.streams.attach_client import Outcome, Session, Streams


def run_exec(site: Site, row: ContainerRow, spec: ExecSpec, *, streams: Streams | None) -> Outcome:
    """Ask the container's monitor to run a command; see `engine.containers.exec`."""
    if not spec.command:
        raise UsageError(f"exec in {row.name}: no command")
    if row.status == "paused":
        raise ConflictError(f"container {row.name}: is paused", hint=f"pe unpause {row.name}")
    connection = ask(site, row, {"op": "exec", "spec": encode(spec)})
    try:
        if streams is None or spec.detach:
            reply = attach_client.read_event(connection)
            if reply.get("event") == "error":
                attach_client.raise_error(reply)
            return Outcome(exit_code=0, detached=True)
        return Session(connection, streams, tty=spec.tty).run()
    finally:
        connection.close()

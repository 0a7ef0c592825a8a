"""`pe diff`."""

from __future__ import annotations

from plugengine.cli.app import App
from plugengine.cli.command import argument, command
from plugengine.state.names import visible


@command(argument("container"))
def diff(app: App, container: str) -> None:
    """List what a container added (A), changed (C) and deleted (D) in its filesystem.

    A name keeps to its line: control characters are shown as escapes.
    """
    for change in sorted(app.engine.containers.changes(container), key=lambda each: each.path):
        path = change.path.replace("\n", "\\n").replace("\t", "\\t")
        app.write(f"{change.kind} {visible(path)}\n")

"""`pe diff`."""

from __future__ import annotations

from plugengine.cli.app import App
from plugengine.cli.command import argument, command


@command(argument("container"))
def diff(app: App, container: str) -> None:
    """List what a container added (A), changed (C) and deleted (D) in its filesystem."""
    for change in sorted(app.engine.containers.changes(container), key=lambda each: each.path):
        app.write(f"{change.kind} {change.path}\n")

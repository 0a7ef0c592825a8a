"""`pe driver new`."""

from __future__ import annotations

import os

from plugengine.cli.app import App
from plugengine.cli.command import argument, command, option
from plugengine.cli.parse.errors import CommandLineError
from plugengine.errors import PlugengineError


@command(
    option("--directory", metavar="DIR", help="Where to write the project  [./plugengine-NAME]"),
    argument("kind"),
    argument("name"),
)
def new(app: App, kind: str, name: str, *, directory: str | None) -> None:
    """Write the project of a new driver of a kind: storage, network, cgroup or namespace.

    It is a pip package with a small driver that works, and its tests, to be changed into yours.
    """
    from plugengine.model import HostPath, Kind
    from plugengine.scaffold import create_project
    from plugengine.state.names import known_names

    kinds = [each.value for each in Kind]
    if kind not in kinds:
        raise CommandLineError(f"kind {kind}: there is no such kind of driver", hint=known_names("kinds", kind, kinds))
    place = directory or f"plugengine-{name.replace('_', '-')}"
    try:
        files = create_project(Kind(kind), name, HostPath(os.path.abspath(place)))
    except OSError as exc:
        raise PlugengineError(f"write project {exc.filename or place}: {str(exc.strerror).lower()}") from exc
    for path in files:
        app.line(os.path.join(place, path))
    app.line("")
    app.line("Next: install it, see it listed, and run the conformance kit against it:")
    app.line(f"    pip install -e '{place}[test]'")
    app.line("    pe drivers")
    app.line(f"    pe driver test {name}")

"""`pe system check` and `pe system reset`."""

from __future__ import annotations

import sys

from plugengine.cli.app import App
from plugengine.cli.command import command, switch
from plugengine.cli.parse.errors import CommandLineError


@command(switch("--repair", help="Remove or restore what is found."))
def check(app: App, *, repair: bool) -> int:
    """Report what killed processes and crashes left behind; 1 if something is left to repair."""
    left = 0
    for finding in app.open_engine(recover=False).system.check(repair=repair):
        word = "noted" if finding.lasting else "repaired" if finding.repaired else "found"
        app.line(f"{word}: {finding.what}")
        left += not finding.repaired and not finding.lasting
    if left and not repair:
        app.complain(f"system: {left} found", hint="pe system check --repair")
    return 1 if left else 0


@command(switch("-f", "--force", help="Do not ask."))
def reset(app: App, *, force: bool) -> None:
    """Stop and remove all containers, and remove all images, volumes and networks below the two roots."""
    locations = app.engine.site.locations
    if not force:
        if not sys.stdin.isatty():
            raise CommandLineError("system reset: nobody to ask", hint="pe system reset --force")
        sys.stderr.write(f"This removes every container, image and volume of {locations.root}.\nContinue? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return
    app.engine.system.reset()

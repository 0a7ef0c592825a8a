"""`pe layer apply` and `pe layer diff`: plumbing for scripts, without an engine."""

from __future__ import annotations

import os
import sys

from plugengine.cli.app import App
from plugengine.cli.command import argument, command
from plugengine.cli.parse.errors import CommandLineError
from plugengine.model import HostPath


@command(argument("directory", metavar="DIR"))
def apply(app: App, directory: str) -> None:
    """Unpack the layer tar on standard input into an empty directory, in overlay form; print its diff id and size."""
    from plugengine.images.layers.apply import apply_layer

    if sys.stdin.isatty():
        raise CommandLineError("standard input: is a terminal, not a layer", hint="pe layer apply DIR < layer.tar")
    diff_id, size = apply_layer(sys.stdin.buffer, HostPath(os.path.abspath(directory)))
    app.line(f"{diff_id} {size}")


@command(argument("directory", metavar="UPPER"))
def diff(_app: App, directory: str) -> None:
    """Write the layer tar of a directory in overlay form to standard output; say its diff id on standard error."""
    from plugengine.images.layers.diff import diff_layer

    if sys.stdout.isatty():
        raise CommandLineError("standard output: is a terminal", hint="pe layer diff UPPER > layer.tar")
    if not os.path.isdir(directory):
        raise CommandLineError(f"layer {directory}: no such directory")
    diff_id, size = diff_layer(HostPath(os.path.abspath(directory)), sys.stdout.buffer)
    sys.stdout.buffer.flush()
    sys.stderr.write(f"{diff_id} {size}\n")

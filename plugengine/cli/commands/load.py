"""`pe load` and `pe import`."""

from __future__ import annotations

import sys
from typing import BinaryIO

from plugengine.cli.app import App
from plugengine.cli.command import argument, command, option, options, switch
from plugengine.cli.parse.errors import CommandLineError

STDIN = "-"


@command(
    option("-i", "--input", metavar="FILE", help="Archive or layout directory; standard input without."),
    switch("-q", "--quiet", help="No progress."),
)
def load(app: App, *, input: str | None, quiet: bool) -> None:  # noqa: A002 - the flag's name
    """Load images from a docker or OCI archive: plain, gzip or zstd, from a file or a pipe."""
    source = _source(input, "pe load -i image.tar")
    for image in app.engine.images.load(source, progress=None if quiet else app.progress):
        for name in image.names:
            app.line(f"Loaded image: {name}")
        if not image.names:
            app.line(f"Loaded image ID: {image.id}")


@command(
    options("-c", "--change", metavar="INSTRUCTION", help="Set the config, such as 'CMD [\"sh\"]'."),
    argument("file", metavar="FILE|-"),
    argument("name", required=False, metavar="[NAME[:TAG]]"),
)
def import_(app: App, file: str, name: str | None, *, change: tuple[str, ...]) -> None:
    """Make an image with one layer out of the tar of a root filesystem, and print its id."""
    if "://" in file:
        raise CommandLineError(f"import {file}: only files and standard input", hint="download it first")
    app.line(
        app.engine.images.import_rootfs(
            _source(file, "pe import rootfs.tar name"), name, changes=change, progress=app.progress
        ).id
    )


def _source(path: str | None, example: str) -> str | BinaryIO:
    if path is not None and path != STDIN:
        return path
    if sys.stdin.isatty():
        raise CommandLineError("standard input: is a terminal, not an archive", hint=f"for example: {example}")
    return sys.stdin.buffer

"""`pe run` and `pe create`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from plugengine.cli.app import App
from plugengine.cli.command import command, rest_of_line, switch
from plugengine.cli.connection import conclude, make_streams, parse_attach
from plugengine.cli.container_options import container_options, detach_keys_option, sig_proxy_option
from plugengine.cli.parse.errors import CommandLineError, FlagError
from plugengine.cli.spec import Surroundings, container_spec
from plugengine.spec import ContainerSpec

if TYPE_CHECKING:
    from plugengine.objects import Container
    from plugengine.streams.attach_client import Streams

_LINE = "IMAGE [COMMAND] [ARG]..."


@command(
    switch("-d", "--detach", help="Leave it running in the background; print its id."),
    *container_options(),
    detach_keys_option(),
    sig_proxy_option(),
    rest_of_line("words", required=True, metavar=_LINE),
    interspersed=False,
)
def run(app: App, words: tuple[str, ...], **values: Any) -> int:
    """Make a container of an image, start it, and stay with it until it ends.

    The exit code is the command's own; 126 when it cannot be executed, 127 when there is none of that name, 125 when
    the engine or a driver failed, 2 when the command line is not understood.
    """
    spec = _spec(app, words, values)
    only = parse_attach(values["attach"])
    if values["detach"] and only:
        raise CommandLineError("--detach: not together with --attach")
    if values["dry_run"]:
        return _describe(app, spec)
    app.open_engine(expect_start=True)
    if values["detach"]:
        with _cidfile(values["cidfile"]) as keep:
            row = app.engine.containers.run(
                spec, detach=True, made=keep, progress=app.progress, debug=app.debug, log=app.log, warn=app.warn
            )
        app.line(row.id)
        return 0
    streams = make_streams(
        stdin=spec.interactive,
        tty=spec.tty,
        detach_keys=values["detach_keys"],
        proxy=values["sig_proxy"] is not False,
        only=only,
    )
    return _run_attached(app, spec, streams, values["cidfile"])


def _run_attached(app: App, spec: ContainerSpec, streams: Streams, cidfile: str | None) -> int:
    with _cidfile(cidfile) as keep:
        rows: list[Container] = []

        def made(row: Container) -> None:
            app.end_progress()
            keep(row)
            rows.append(row)

        outcome = app.engine.containers.run(
            spec, streams=streams, made=made, progress=app.progress, debug=app.debug, log=app.log, warn=app.warn
        )
    return conclude(app, rows[0], outcome)


@command(
    *container_options(),
    rest_of_line("words", required=True, metavar=_LINE),
    interspersed=False,
)
def create(app: App, words: tuple[str, ...], **values: Any) -> int:
    """Make a container of an image without starting it, and print its id."""
    spec = _spec(app, words, values)
    parse_attach(values["attach"])
    if values["dry_run"]:
        return _describe(app, spec)
    row = _make(app, spec, values["cidfile"])
    for warning in row.state.warnings:
        app.warn(warning)
    app.line(row.id)
    return 0


def _spec(app: App, words: tuple[str, ...], values: dict[str, Any]) -> ContainerSpec:
    around = Surroundings(
        environ=app.environ, directory=working_directory(), processors=os.sysconf("SC_NPROCESSORS_ONLN")
    )
    return container_spec(words[0], words[1:], values, around)


def working_directory() -> str:
    """Return where relative paths begin; in a directory that was removed nothing is found, but nothing else fails."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/proc/self/cwd"


def _make(app: App, spec: ContainerSpec, cidfile: str | None) -> Container:
    with _cidfile(cidfile) as keep:
        row = app.engine.containers.create(spec, progress=app.progress)
        keep(row)
    return row


def _describe(app: App, spec: ContainerSpec) -> int:
    for text in app.engine.containers.describe_run(spec):
        app.write(f"{text}\n")
    return 0


@contextmanager
def _cidfile(path: str | None) -> Iterator[Callable[[Container], None]]:
    """Take hold of the file before anything is made; it goes again when there is no id to write."""
    if path is None:
        yield lambda _row: None
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError as exc:
        raise FlagError("--cidfile", path, "exists: another container may own it; remove the file first") from exc
    except OSError as exc:
        raise FlagError("--cidfile", path, str(exc.strerror).lower()) from exc
    written = False

    def keep(row: Container) -> None:
        nonlocal written
        os.write(fd, row.id.encode())
        os.close(fd)
        written = True

    try:
        yield keep
    finally:
        if not written:
            os.close(fd)
            os.unlink(path)

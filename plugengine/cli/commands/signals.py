"""`pe stop`, `restart`, `kill`, `pause`, `unpause` and `wait`: one word for each of several containers."""

from __future__ import annotations

from typing import Final

import click

from plugengine.cli.app import App
from plugengine.cli.command import argument, command, option
from plugengine.cli.parse.quantities import parse_int

_MOST_SECONDS: Final = 2**31 - 1


def _containers() -> click.Argument:
    return argument("containers", many=True, metavar="CONTAINER...")


def _time_option() -> click.Option:
    return option("-t", "--time", "--timeout", metavar="SECONDS", help="Before SIGKILL; -1 waits for ever  [10]")


def _signal_option(text: str) -> click.Option:
    return option("-s", "--signal", metavar="SIGNAL", help=text)


def _seconds(text: str | None) -> int | None:
    return None if text is None else parse_int("--time", text, low=-1, high=_MOST_SECONDS, example="30")


@command(_time_option(), _signal_option("Instead of the container's stop signal."), _containers())
def stop(app: App, containers: tuple[str, ...], *, time: str | None, signal: str | None) -> int:
    """Ask containers to end, by their stop signal, and kill those that have not after a while."""
    seconds = _seconds(time)

    def end(reference: str) -> str:
        app.engine.containers.stop(reference, timeout_s=seconds, signal=signal)
        return reference

    return app.each(containers, end)


@command(_time_option(), _signal_option("Instead of the container's stop signal."), _containers())
def restart(app: App, containers: tuple[str, ...], *, time: str | None, signal: str | None) -> int:
    """Stop containers and start them again; one that does not run is just started."""
    seconds = _seconds(time)

    def again(reference: str) -> str:
        app.engine.containers.restart(reference, timeout_s=seconds, signal=signal)
        return reference

    return app.each(containers, again)


@command(_signal_option("Name or number  [KILL]"), _containers())
def kill(app: App, containers: tuple[str, ...], *, signal: str | None) -> int:
    """Send a signal to the first process of containers."""

    def send(reference: str) -> str:
        app.engine.containers.kill(reference, signal=signal or "KILL")
        return reference

    return app.each(containers, send)


@command(_containers())
def pause(app: App, containers: tuple[str, ...]) -> int:
    """Freeze all processes of containers."""

    def freeze(reference: str) -> str:
        app.engine.containers.pause(reference)
        return reference

    return app.each(containers, freeze)


@command(_containers())
def unpause(app: App, containers: tuple[str, ...]) -> int:
    """Let paused containers go on."""

    def thaw(reference: str) -> str:
        app.engine.containers.unpause(reference)
        return reference

    return app.each(containers, thaw)


@command(_containers())
def wait(app: App, containers: tuple[str, ...]) -> int:
    """Wait until containers have ended, and print their exit codes."""
    return app.each(containers, lambda reference: str(app.engine.containers.wait(reference)))

"""Connect this process's streams to a container, and say how the session ended."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from plugengine.cli.parse.errors import CommandLineError, FlagError
from plugengine.streams.attach_client import DEFAULT_DETACH_KEYS, Outcome, Streams, parse_detach_keys

if TYPE_CHECKING:
    from plugengine.cli.app import App
    from plugengine.objects import Container

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
_KILLED: Final = 128 + 9  # SIGKILL, which is what the kernel sends
NAMES: Final = ("stdin", "stdout", "stderr")


def parse_attach(values: Collection[str]) -> frozenset[str]:
    """Return the streams `-a` names. Raises: FlagError."""
    for value in values:
        if value.lower() not in NAMES:
            raise FlagError("--attach", value, "not stdin, stdout or stderr", example="stdout")
    return frozenset(value.lower() for value in values)


def make_streams(
    *, stdin: bool, tty: bool, detach_keys: str | None, proxy: bool, only: Collection[str] = ()
) -> Streams:
    """Return this process's descriptors.

    Args:
        stdin: Standard input is passed on.
        tty: The command has a terminal.
        detach_keys: None for the usual ones.
        proxy: Signals are passed on.
        only: The streams to connect; empty for all.

    Raises:
        CommandLineError: Keys typed here are for a terminal there, but come from none.
    """
    stdin = stdin and (not only or "stdin" in only)
    if stdin and tty and not os.isatty(STDIN):
        raise CommandLineError(
            "--tty: standard input is not a terminal", hint="leave out -t where input comes from a pipe or a file"
        )
    keys = DEFAULT_DETACH_KEYS if detach_keys is None else detach_keys
    parse_detach_keys(keys)
    return Streams(
        stdin=STDIN if stdin else None,
        stdout=STDOUT if not only or "stdout" in only else None,
        stderr=STDERR if not only or "stderr" in only else None,
        detach_keys=keys,
        proxy_signals=proxy,
    )


def conclude(app: App, row: Container, outcome: Outcome) -> int:
    """Say what the exit code alone does not, and return it."""
    if outcome.oom_killed:
        from plugengine.cli.human import binary_size

        limit = row.spec.limits.memory_bytes
        at = f" at its limit of {binary_size(limit)}" if limit else ""
        what = "killed" if outcome.exit_code == _KILLED else "a process of it was killed"
        app.complain(
            f"container {row.name}: out of memory: {what}{at}", hint="give it more with --memory" if limit else None
        )
    if outcome.error:
        app.complain(f"container {row.name}: {outcome.error}")
    if outcome.not_removed:
        app.complain(
            f"container {row.name}: could not be removed: {outcome.not_removed}", hint=f"pe rm --force {row.name}"
        )
    return outcome.exit_code

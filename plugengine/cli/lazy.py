"""Groups that know their commands by name and import only the one called."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from plugengine.errors import DriverLoadError, PlugengineError

if TYPE_CHECKING:
    from plugengine.cli.app import App


_PATIENCE_S: Final = 20.0
_STRANGERS: Final = "plugengine.strangers"  # key of Context.meta: asked once for each command line


class Entry(NamedTuple):
    """A command that has not been imported."""

    target: str  # module:attribute
    help: str
    hidden: bool = False


class Stranger(NamedTuple):
    """A command of a plugin that has not been imported."""

    target: str  # module:attribute
    source: str  # "distribution version"


class LazyGroup(click.Group):
    """A group of commands, listed by a table.

    Args:
        entries: Name to entry.
        arguments: As `click.Group`.
    """

    def __init__(self, *, entries: Mapping[str, Entry], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the table's order."""
        return [*self.entries, *self.strangers(ctx)]

    def strangers(self, ctx: click.Context) -> Mapping[str, Stranger]:  # noqa: ARG002 - for those who have some
        """Return the commands of plugins by name."""
        return {}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        entry = self.entries.get(cmd_name)
        if entry is not None:
            return load_command(cmd_name, entry.target)
        stranger = self.strangers(ctx).get(cmd_name)
        return None if stranger is None else load_command(cmd_name, stranger.target, source=stranger.source)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may be meant."""
        name = args[0]
        found = self.get_command(ctx, name)
        if found is None and not ctx.resilient_parsing:
            known = [known for known in self.list_commands(ctx) if not self._is_hidden(known)]
            close = difflib.get_close_matches(name, known, n=1)
            guess = f", did you mean {close[0]}?" if close else ""
            ctx.fail(f"no such command: {name}{guess}")
        return name, found, args[1:]

    def _is_hidden(self, name: str) -> bool:
        entry = self.entries.get(name)
        return entry is not None and entry.hidden

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, without importing them."""
        rows = [(name, entry.help) for name, entry in self.entries.items() if not entry.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        strangers = self.strangers(ctx)
        if strangers:
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name, each.source) for name, each in sorted(strangers.items())])


class RootGroup(LazyGroup):
    """`pe` itself, which plugins may add commands to."""

    def strangers(self, ctx: click.Context) -> Mapping[str, Stranger]:
        """Ask the installed plugins; a broken one is a warning, and a bundled command is never replaced."""
        app: App | None = ctx.find_root().obj
        meta = ctx.find_root().meta
        if app is not None and _STRANGERS not in meta:
            meta[_STRANGERS] = self._ask(app)
        found: Mapping[str, Stranger] = meta.get(_STRANGERS, {})
        return found

    def _ask(self, app: App) -> Mapping[str, Stranger]:
        found: dict[str, Stranger] = {}
        for source, commands in _plugin_commands(app):
            for name, target in commands.items():
                if name in self.entries or name in found:
                    app.warn(f"command {name} of {source}: the name is taken; left out")
                else:
                    found[name] = Stranger(target, source)
        return found


def _plugin_commands(app: App) -> list[tuple[str, Mapping[str, str]]]:
    from plugengine.plugins.deadlines import Expired, within
    from plugengine.plugins.registry import Registry, new_manager

    registry = Registry()
    found: list[tuple[str, Mapping[str, str]]] = []
    for entry in registry.entries("hooks"):
        try:
            manager = new_manager(registry, [("hooks", entry.name)])
            for commands in within(_PATIENCE_S, manager.hook.pe_commands):
                found.append((entry.source, _checked(commands)))
        except PlugengineError as exc:
            app.warn(exc.message)
        except Expired:
            app.warn(f"plugin {entry.name} of {entry.source}: pe_commands: did not return within {_PATIENCE_S:g} s")
        except Exception as exc:  # noqa: BLE001 - a stranger's code; every other command goes on
            app.warn(f"plugin {entry.name} of {entry.source}: pe_commands: {type(exc).__name__}: {exc}")
    return found


def _checked(commands: Any) -> Mapping[str, str]:
    """Return what `pe_commands` returned if it is what it must be."""
    if isinstance(commands, Mapping) and all(isinstance(word, str) for pair in commands.items() for word in pair):
        return commands
    raise TypeError(f"returned {commands!r:.80}, not names to 'module:attribute'")


def load_command(name: str, target: str, *, source: str = "pe") -> click.Command:
    """Import a command.

    Args:
        name: Of the command.
        target: "module:attribute".
        source: Whose it is, as shown in messages.

    Raises:
        DriverLoadError: It cannot be imported, or is none.
    """
    module, _, attribute = target.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (Exception, SystemExit) as exc:
        raise DriverLoadError(
            f"command {name} of {source}: import {target}: {type(exc).__name__}: {exc}",
            hint=f"a bug of {source}; --debug shows where",
        ) from exc
    if not isinstance(found, click.Command):
        raise DriverLoadError(
            f"command {name} of {source}: {target} is {type(found).__name__}, not a click command",
            hint=f"a bug of {source}",
        )
    return found

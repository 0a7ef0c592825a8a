"""Groups that know their commands by name and import only the one called."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from plugengine.errors import DriverLoadError

if TYPE_CHECKING:
    from plugengine.cli.app import App
    from plugengine.plugins.offers import Offer


_THIRD_PARTY: Final = "plugengine.third_party"  # key of Context.meta: asked once for each command line


class Entry(NamedTuple):
    """A command that has not been imported."""

    target: str  # module:attribute
    help: str
    hidden: bool = False


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
        return [*self.entries, *self.third_party(ctx)]

    def third_party(self, ctx: click.Context) -> Mapping[str, Offer]:  # noqa: ARG002 - for those who have some
        """Return the commands of plugins by name."""
        return {}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        entry = self.entries.get(cmd_name)
        if entry is not None:
            return load_command(cmd_name, entry.target)
        stranger = self.third_party(ctx).get(cmd_name)
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
        third_party = self.third_party(ctx)
        if third_party:
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name, each.source) for name, each in sorted(third_party.items())])


class RootGroup(LazyGroup):
    """`pe` itself, which plugins may add commands to."""

    def third_party(self, ctx: click.Context) -> Mapping[str, Offer]:
        """Ask the installed plugins; a broken one is a warning, and a bundled command is never replaced."""
        app: App | None = ctx.find_root().obj
        meta = ctx.find_root().meta
        if app is not None and _THIRD_PARTY not in meta:
            meta[_THIRD_PARTY] = self._ask(app)
        found: Mapping[str, Offer] = meta.get(_THIRD_PARTY, {})
        return found

    def _ask(self, app: App) -> Mapping[str, Offer]:
        from plugengine.plugins.offers import offers
        from plugengine.plugins.registry import Registry

        asked = offers(Registry(), "pe_commands", {})
        for fault in asked.faults:
            app.warn(fault)
        found: dict[str, Offer] = {}
        for offer in asked.found:
            if offer.name in self.entries or offer.name in found:
                app.warn(f"command {offer.name} of {offer.source}: the name is taken; left out")
            else:
                found[offer.name] = offer
        return found


def load_command(name: str, target: str, *, source: str = "pe") -> click.Command:
    """Import a command.

    Args:
        name: Of the command.
        target: "module:attribute".
        source: Whose it is, as shown in messages.

    Raises:
        DriverLoadError: It cannot be imported, or is no command.
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

"""Commands and options in docker's grammar, on top of click."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

import click

from plugengine.cli.parse.quantities import parse_bool

_F = TypeVar("_F", bound=Callable[..., Any])
END_OF_OPTIONS: Final = "--"


class Flags:
    """The option names of one command: those that take a value, and those that do not.

    Args:
        valued: Names of options with a value.
        switches: Names of options without, and the parameter of each.
    """

    def __init__(self, valued: frozenset[str], switches: Mapping[str, str]) -> None:
        self.valued = valued
        self.switches = switches

    def split(self, args: Sequence[str], *, interspersed: bool) -> tuple[list[str], dict[str, bool]]:
        """Take out what click does not know but docker does: `--rm=false`, `-d=true`, `-p=80:80`.

        Args:
            args: The words after the command.
            interspersed: Options may follow arguments.

        Returns:
            The words click can read, and the values of the switches taken out.

        Raises:
            FlagError: A switch's value is neither true nor false.
        """
        rest: list[str] = []
        settings: dict[str, bool] = {}
        position = 0
        while position < len(args):
            word = args[position]
            position += 1
            if word == END_OF_OPTIONS or not word.startswith("-") or word == "-":
                rest.append(word)
                if word == END_OF_OPTIONS or not interspersed:
                    return [*rest, *args[position:]], settings
                continue
            if self._take_switch(word, settings):
                continue
            rest += self._respell(word)
            if self._wants_next(word):
                rest += args[position : position + 1]
                position += 1
        return rest, settings

    def _take_switch(self, word: str, settings: dict[str, bool]) -> bool:
        name, equals, value = word.partition("=")
        parameter = self.switches.get(name)
        if parameter is not None and equals:
            settings[parameter] = parse_bool(name, value)
            return True
        if parameter is not None:
            settings.pop(parameter, None)
        return False

    def _respell(self, word: str) -> list[str]:
        """Turn `-p=80:80` into `-p 80:80`."""
        name, equals, value = word.partition("=")
        if equals and not name.startswith("--") and name in self.valued:
            return [name, value]
        return [word]

    def _wants_next(self, word: str) -> bool:
        """Tell whether the next word is this one's value: `--name web`, `-e A=b`, `-ite A=b`."""
        if word.startswith("--"):
            return "=" not in word and word in self.valued
        for place, letter in enumerate(word[1:], 2):
            if f"-{letter}" in self.valued:
                return place == len(word)
            if f"-{letter}" not in self.switches:
                return False
        return False


class PeCommand(click.Command):
    """A command whose switches take `=true` and `=false`, and which passes `App` to its function."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        switches = {
            name: str(option.name)
            for option in options
            if option.is_flag and option.expose_value
            for name in option.opts
        }
        valued = frozenset(name for option in options if not (option.is_flag or option.count) for name in option.opts)
        words, settings = Flags(valued, switches).split(args, interspersed=ctx.allow_interspersed_args)
        try:
            rest = super().parse_args(ctx, words)
        except click.UsageError as exc:
            exc.ctx = exc.ctx or ctx  # the parser does not always know which command it reads for
            raise
        ctx.params.update(settings)
        return rest


def command(*options: click.Parameter, interspersed: bool = True, hidden: bool = False) -> Callable[[_F], PeCommand]:
    """Make a command of a function; its docstring is the help, its parameters come from the options.

    Args:
        options: Options and arguments.
        interspersed: Options may follow arguments; not where the arguments are another program's.
        hidden: Not listed.
    """

    def make(function: _F) -> PeCommand:
        return PeCommand(
            name=function.__name__.rstrip("_").replace("_", "-"),
            params=list(options),
            callback=click.pass_obj(function),
            help=function.__doc__,
            hidden=hidden,
            context_settings={
                "allow_interspersed_args": interspersed,
                "help_option_names": ["--help"],
                "max_content_width": 100,
            },
        )

    return make


def option(*names: str, metavar: str = "TEXT", help: str) -> click.Option:  # noqa: A002 - click's word
    """Return an option with one value, given as text; the last one given counts."""
    return click.Option(names, metavar=metavar, help=help)


def options(*names: str, metavar: str = "TEXT", help: str) -> click.Option:  # noqa: A002 - click's word
    """Return an option that may be given many times."""
    return click.Option(names, metavar=metavar, help=help, multiple=True)


def switch(*names: str, help: str) -> click.Option:  # noqa: A002 - click's word
    """Return an option without a value; not given it is False."""
    return click.Option(names, is_flag=True, default=False, help=help)


def argument(name: str, *, many: bool = False, required: bool = True, metavar: str | None = None) -> click.Argument:
    """Return an argument; with `many` all that are left."""
    return click.Argument([name], nargs=-1 if many else 1, required=required, metavar=metavar)


def rest_of_line(name: str, *, required: bool = False, metavar: str) -> click.Argument:
    """Return an argument that takes everything left as it is, options of another program included."""
    return click.Argument([name], nargs=-1, required=required, type=cast(Any, click.UNPROCESSED), metavar=metavar)

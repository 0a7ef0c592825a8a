"""Commands and options in docker's grammar, on top of click."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeVar, cast

import click

from plugengine.cli.parse.quantities import parse_bool

_F = TypeVar("_F", bound=Callable[..., Any])
END_OF_OPTIONS: Final = "--"
HELP_WIDTH: Final = 100


class Flags:
    """The option names of one command.

    Args:
        valued: Names of options with a value, short and long, to the long one.
        switches: Names of options without, to the long one.
    """

    def __init__(self, valued: Mapping[str, str], switches: Mapping[str, str]) -> None:
        self.valued = valued
        self.switches = switches

    def split(self, args: Sequence[str], *, interspersed: bool) -> tuple[list[str], dict[str, bool]]:
        """Take out what click does not know but docker does, and spell the rest at length.

        Docker knows `--rm=false`, `-d=true` and `-p=80:80`. Short names are spelt at length because click looks each
        of them up among the long ones first, and if it is unknown looks for similar ones and for a translation of its
        complaint (2 ms, _process_opts in click/parser.py).

        Args:
            args: The words after the command.
            interspersed: Options may follow arguments.

        Returns:
            The words click can read, and the values of the switches taken out, by their long names.

        Raises:
            FlagError: A switch's value is neither true nor false.
        """
        rest: list[str] = []
        settings: dict[str, bool] = {}
        words = iter(args)
        for word in words:
            if word == END_OF_OPTIONS or not word.startswith("-") or word == "-":
                rest.append(word)
                if word == END_OF_OPTIONS or not interspersed:
                    return [*rest, *words], settings
            elif word.startswith("--"):
                rest += self._read_long(word, words, settings)
            else:
                rest += self._read_short(word, words, settings)
        return rest, settings

    def _read_long(self, word: str, words: Iterator[str], settings: dict[str, bool]) -> list[str]:
        name, equals, value = word.partition("=")
        long = self.switches.get(name)
        if long is not None and equals:
            settings[long] = parse_bool(name, value)
            return []
        if long is not None:
            settings.pop(long, None)
        if name in self.valued and not equals:
            return [word, *islice(words, 1)]
        return [word]

    def _read_short(self, word: str, words: Iterator[str], settings: dict[str, bool]) -> list[str]:
        """Read `-d`, `-d=true`, `-m64m`, `-m=64m`, `-ite A=b`; a word with an unknown letter is left to click."""
        found: list[str] = []
        for place, letter in enumerate(word[1:], 2):
            name, behind = f"-{letter}", word[place:]
            if name in self.valued:
                value = [behind.removeprefix("=")] if behind else islice(words, 1)
                return [*found, self.valued[name], *value]
            long = self.switches.get(name)
            if long is None:
                return [word]
            if behind.startswith("="):
                settings[long] = parse_bool(name, behind[1:])
                return found
            settings.pop(long, None)
            found.append(long)
        return found


class PeCommand(click.Command):
    """A command whose switches take `=true` and `=false`, and which passes `App` to its function."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words."""
        valued: dict[str, str] = {}
        switches: dict[str, str] = {}
        parameters: dict[str, str] = {}
        for param in self.params:
            if isinstance(param, click.Option):
                long = max(param.opts, key=len)
                parameters[long] = str(param.name)
                (switches if param.is_flag else valued).update(dict.fromkeys(param.opts, long))
        words, settings = Flags(valued, switches).split(args, interspersed=ctx.allow_interspersed_args)
        try:
            rest = super().parse_args(ctx, words)
        except click.UsageError as exc:
            exc.ctx = exc.ctx or ctx  # the parser does not always know which command it reads for
            raise
        ctx.params.update({parameters[long]: value for long, value in settings.items()})
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
            params=[*options, help_option()],
            callback=click.pass_obj(function),
            help=function.__doc__,
            hidden=hidden,
            add_help_option=False,
            context_settings={"allow_interspersed_args": interspersed, "max_content_width": HELP_WIDTH},
        )

    return make


def help_option() -> click.Option:
    """Return --help; click's own looks for translations of its text at every start (2 ms)."""

    def show(ctx: click.Context, _param: click.Parameter, value: object) -> None:
        if value and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()

    return click.Option(
        ["--help"], is_flag=True, expose_value=False, is_eager=True, callback=show, help="Show this text."
    )


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

"""Run one command line from its words to its exit code; the only place that catches, prints and exits."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import click

from plugengine.cli.app import App
from plugengine.cli.catalog import COMMANDS
from plugengine.cli.command import HELP_WIDTH, help_option
from plugengine.cli.lazy import RootGroup
from plugengine.cli.output import OutputError, watch_output
from plugengine.errors import PlugengineError

INTERRUPTED: Final = 130  # 128 + SIGINT
BROKEN_PIPE: Final = 141  # 128 + SIGPIPE
_SHOWN = 40  # characters on each side of what is wrong
COMPLETION_VARIABLE: Final = "_PE_COMPLETE"
USAGE: Final = 2
INTERNAL: Final = 125


def _show_version(ctx: click.Context, _param: click.Parameter, value: object) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"pe {version('plugengine')}")
        ctx.exit()


root: Final[RootGroup] = RootGroup(
    name="pe",
    entries=COMMANDS,
    add_help_option=False,
    context_settings={"max_content_width": HELP_WIDTH},
    help="Run containers through drivers chosen per container.",
    epilog='Completion for bash: eval "$(_PE_COMPLETE=bash_source pe)"; zsh_source and fish_source likewise.',
    params=[
        click.Option(["--root"], metavar="DIR", help="Persistent state  [PLUGENGINE_ROOT, else /var/lib/plugengine]"),
        click.Option(
            ["--run-root"], metavar="DIR", help="State of this boot  [PLUGENGINE_RUN_ROOT, else /run/plugengine]"
        ),
        click.Option(["--debug"], is_flag=True, help="Log steps as they run; show tracebacks."),
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_show_version,
            help="Show the version.",
        ),
        help_option(),
    ],
)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a command line and return its exit code; errors are said on standard error."""
    app = App(environ=environ)
    watch_output()
    if COMPLETION_VARIABLE in environ:
        root.main(args=list(argv), prog_name="pe", complete_var=COMPLETION_VARIABLE, obj=app)
    try:
        code = _guard(app, list(argv))
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except OSError as exc:  # a full disk, say
        _drop_output()
        app.complain(f"write output: {str(exc.strerror).lower()}")
        return INTERNAL
    finally:
        app.close()
    return code


def _guard(app: App, argv: list[str]) -> int:
    try:
        return _invoke(app, argv)
    except PlugengineError as exc:
        if app.debug:
            _print_traceback()
        app.say(exc)
        return exc.exit_code
    except click.ClickException as exc:
        return _explain(app, exc)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (BrokenPipeError, OutputError):
        raise
    except UnicodeEncodeError as exc:
        if app.debug:
            _print_traceback()
        word = exc.object[max(0, exc.start - _SHOWN) : exc.start + _SHOWN]
        app.complain(f"{word!a}: is not UTF-8", hint="records are kept as JSON, so names and words must be UTF-8")
        return USAGE
    except Exception as exc:  # noqa: BLE001 - the last frame; the traceback is kept
        _print_traceback()
        app.complain(f"internal error: {type(exc).__name__}: {exc}", hint=f"this is a bug of {_culprit(exc)}")
        return INTERNAL


def _culprit(exc: BaseException) -> str:
    """Return whose code raised an exception nobody expected: a plugin's distribution and version, or `pe`."""
    from plugengine.plugins.culprit import culprit

    return culprit(exc) or "pe; please report it"


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


def _invoke(app: App, argv: list[str]) -> int:
    try:
        with root.make_context("pe", argv, obj=app) as ctx:
            app.set_up(root=ctx.params["root"], run_root=ctx.params["run_root"], debug=ctx.params["debug"])
            result = root.invoke(ctx)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    return result if isinstance(result, int) else 0


def _explain(app: App, exc: click.ClickException) -> int:
    """Say what click found wrong, in the engine's form."""
    ctx: click.Context | None = getattr(exc, "ctx", None)
    if ctx is not None and isinstance(exc, click.exceptions.NoArgsIsHelpError):
        click.echo(ctx.get_help(), err=True)
        return USAGE
    words = " ".join(ctx.command_path.split()[1:]) if ctx is not None else ""
    message = exc.format_message().rstrip(".")
    hint = f"pe {words} --help" if words else "pe --help"
    if isinstance(exc, click.NoSuchOption):
        message = f"no such option: {exc.option_name}"
        if exc.possibilities:
            hint = f"did you mean {' or '.join(sorted(exc.possibilities))}? {hint}"
    message = message[:1].lower() + message[1:]
    app.complain(f"{words}: {message}" if words else message, hint=hint)
    return exc.exit_code if isinstance(exc, click.UsageError) else INTERNAL


def _drop_output() -> None:
    """Let the interpreter flush into nothing: nobody reads our output any more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)

"""The whole command line, as far as it goes without a container."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from plugengine.cli import main
from plugengine.cli.catalog import COMMANDS
from plugengine.cli.lazy import Entry, LazyGroup, load_command
from plugengine.cli.program import root
from plugengine.errors import DriverLoadError
from tests.waiting import PATIENCE_S

PE = [sys.executable, "-m", "plugengine"]


def pe(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PE, *words], capture_output=True, text=True, check=False, timeout=PATIENCE_S, env={**os.environ, **environ}
    )


def every_command() -> Iterator[tuple[str, click.Command]]:
    def walk(path: str, group: LazyGroup) -> Iterator[tuple[str, click.Command]]:
        for name, entry in group.entries.items():
            found = load_command(name, entry.target)
            yield f"{path} {name}".strip(), found
            if isinstance(found, LazyGroup):
                yield from walk(f"{path} {name}".strip(), found)

    yield from walk("", root)


@pytest.mark.parametrize(("path", "command"), [pytest.param(*each, id=each[0]) for each in every_command()])
def test_every_command_of_the_table_exists_and_helps(path: str, command: click.Command) -> None:
    with click.Context(command, info_name=f"pe {path}") as ctx:
        text = command.get_help(ctx)
    assert text.startswith(f"Usage: pe {path}")
    assert "  --help" in text
    options = [param for param in command.params if isinstance(param, click.Option)]
    assert all(option.help for option in options)
    names = [name for option in options for name in option.opts]
    assert len(names) == len(set(names))


def test_help_lists_all_commands_and_imports_none() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "plugengine", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout
    assert "plugengine.cli.commands." not in done.stderr


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        pytest.param(["rnu"], "no such command: rnu, did you mean run?", "pe --help", id="command"),
        pytest.param(["image", "lss"], "image: no such command: lss, did you mean ls?", "pe image --help", id="inner"),
        pytest.param(["run", "--nmae", "x", "i"], "run: no such option: --nmae", "--name", id="option"),
        pytest.param(["--roto", "x"], "no such option: --roto", "--root", id="global option"),
        pytest.param(["run"], "run: missing argument", "pe run --help", id="no image"),
        pytest.param(["run", "--name"], "run: option '--name' requires an argument", "pe run --help", id="no value"),
        pytest.param(
            ["rename", "a", "b", "c"], "rename: got unexpected extra argument", "pe rename --help", id="extra"
        ),
        pytest.param(["run", "-m", "64q", "i"], "--memory 64q: not a size", "for example --memory 64m", id="value"),
        pytest.param(["run", "-d", "-a", "stdout", "i"], "--detach: not together", "", id="conflict"),
        pytest.param(["run", "-a", "stdlog", "i"], "--attach stdlog: not stdin", "--attach stdout", id="stream"),
        pytest.param(["run", "-it", "i"], "--tty: standard input is not a terminal", "leave out -t", id="terminal"),
        pytest.param(["logs", "-n", "few", "x"], "--tail few: not a whole number", "--tail 100", id="logs"),
        pytest.param(["ps", "-f", "colour=red"], "--filter colour=red", "--filter status=exited", id="filter"),
        pytest.param(["stop", "-t", "soon", "x"], "--time soon: not a whole number", "--time 30", id="time"),
        pytest.param(["inspect", "--type", "pod", "x"], "--type pod: not container", "--type container", id="type"),
        pytest.param(["import", "http://x/y"], "import http://x/y: only files", "download it first", id="import"),
    ],
)
def test_what_is_not_understood_is_said_in_two_lines_and_ends_with_2(words: list[str], message: str, hint: str) -> None:
    done = subprocess.run([*PE, *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first.startswith(f"pe: {message}")
    assert len(rest) <= 1
    assert hint in "".join(rest)


def test_no_words_show_the_help_and_end_with_2() -> None:
    done = pe()
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: pe [OPTIONS]")


def test_the_version_needs_nothing() -> None:
    assert pe("--version").stdout.startswith("pe ")
    assert "ApiVersion: 1." in pe("version").stdout
    assert pe("version", "-f", "{{.Os}}").stdout == "linux\n"
    assert pe("version", "--format", "json").stdout.startswith('{"Version":')


def test_main_with_words_returns_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rnu"], environ={}) == 2
    assert "did you mean run?" in capsys.readouterr().err


def test_completion_is_click_s() -> None:
    assert "_PE_COMPLETE=bash_complete" in pe(_PE_COMPLETE="bash_source").stdout
    completed = pe(_PE_COMPLETE="bash_complete", COMP_WORDS="pe ru", COMP_CWORD="1").stdout
    assert completed.split() == ["plain,run"]
    completed = pe(_PE_COMPLETE="bash_complete", COMP_WORDS="pe run --memory-", COMP_CWORD="2").stdout
    assert completed.split() == ["plain,--memory-swap", "plain,--memory-reservation"]


def test_output_nobody_reads_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*PE, "version"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """Install a distribution with a hook plugin on a path of its own, as pip would lay it out."""
    (tmp_path / "strange_commands.py").write_text(
        textwrap.dedent("""
            import click
            from plugengine import hookimpl

            @hookimpl
            def pe_commands():
                home = "strange_commands"
                return {"greet": f"{home}:greet", "run": f"{home}:greet", "lost": f"{home}:x"}

            @click.command()
            @click.argument("name")
            @click.pass_obj
            def greet(app, name):
                app.line(f"hello {name}")
                return 3
        """)
    )
    metadata = tmp_path / "strange-2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text("[plugengine.hooks]\nstrange = strange_commands\n")
    return tmp_path


def test_a_plugin_adds_commands_but_replaces_none(plugin: Path) -> None:
    done = pe("greet", "world", PYTHONPATH=str(plugin))
    assert (done.returncode, done.stdout) == (3, "hello world\n")
    assert "command run of strange 2.0: the name is taken" in done.stderr
    listed = pe("--help", PYTHONPATH=str(plugin))
    assert "greet  strange 2.0" in listed.stdout
    assert listed.stderr.count("the name is taken") == 1
    assert "did you mean greet?" in pe("gret", PYTHONPATH=str(plugin)).stderr


def test_a_command_that_cannot_be_imported_names_itself(plugin: Path) -> None:
    done = pe("lost", PYTHONPATH=str(plugin))
    assert done.returncode == 125
    assert "command lost of strange 2.0: import strange_commands:x" in done.stderr


def test_a_broken_plugin_is_a_warning_where_it_matters_and_nothing_elsewhere(plugin: Path) -> None:
    (plugin / "strange_commands.py").write_text("raise RuntimeError('broken on purpose')\n")
    done = pe("--help", PYTHONPATH=str(plugin))
    assert done.returncode == 0
    assert "pe: warning: " in done.stderr
    assert "strange 2.0" in done.stderr
    assert "broken on purpose" in done.stderr
    assert pe("version", PYTHONPATH=str(plugin)).stderr == ""


def test_what_nobody_expected_keeps_its_traceback(plugin: Path) -> None:
    text = (plugin / "strange_commands.py").read_text().replace("return 3", "return {}[name]")
    (plugin / "strange_commands.py").write_text(text)
    done = pe("greet", "world", PYTHONPATH=str(plugin))
    assert done.returncode == 125
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-2] == "pe: internal error: KeyError: 'world'"


def test_a_command_is_a_click_command() -> None:
    group = LazyGroup(name="x", entries={"odd": Entry("plugengine.cli.catalog:COMMANDS", "Odd")})
    with pytest.raises(DriverLoadError, match="is dict, not a click command"):
        group.get_command(click.Context(group), "odd")

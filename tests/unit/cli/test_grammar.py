from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.cli.command import Flags
from plugengine.cli.commands.run import run
from plugengine.cli.parse.errors import FlagError

FLAGS = Flags(
    valued={"-e": "--env", "--env": "--env", "-p": "--publish", "--publish": "--publish", "--name": "--name"},
    switches={
        "-d": "--detach",
        "--detach": "--detach",
        "-i": "--interactive",
        "--interactive": "--interactive",
        "-t": "--tty",
        "--tty": "--tty",
        "--rm": "--rm",
    },
)


@pytest.mark.parametrize(
    ("line", "words", "settings"),
    [
        pytest.param("image cmd", "image cmd", {}, id="no options"),
        pytest.param("--rm image", "--rm image", {}, id="a bare switch is click's"),
        pytest.param("--rm=true image", "image", {"--rm": True}, id="true"),
        pytest.param("--rm=false image", "image", {"--rm": False}, id="false"),
        pytest.param("--rm --rm=0 image", "--rm image", {"--rm": False}, id="the last one counts"),
        pytest.param("--rm=0 --rm image", "--rm image", {}, id="also when it is the bare one"),
        pytest.param("-d=true image", "image", {"--detach": True}, id="short with a value"),
        pytest.param("-d=0 -d image", "--detach image", {}, id="short, the last one counts"),
        pytest.param("-itd=0 image", "--interactive --tty image", {"--detach": False}, id="a cluster with a value"),
        pytest.param("-it image", "--interactive --tty image", {}, id="a cluster"),
        pytest.param("-p=80:80 image", "--publish 80:80 image", {}, id="short option with an equals sign"),
        pytest.param("-p80:80 image", "--publish 80:80 image", {}, id="short option with its value"),
        pytest.param("-e=A=b image", "--env A=b image", {}, id="only the first equals sign is ours"),
        pytest.param("-e --rm=false image", "--env --rm=false image", {}, id="a value that looks like a switch"),
        pytest.param(
            "-ite A=b image", "--interactive --tty --env A=b image", {}, id="a cluster whose last wants a value"
        ),
        pytest.param("-iteA=b image", "--interactive --tty --env A=b image", {}, id="a cluster with its value"),
        pytest.param("-eA --rm=false image", "--env A image", {"--rm": False}, id="a switch behind"),
        pytest.param("--name --rm=false image", "--name --rm=false image", {}, id="a long option's value"),
        pytest.param("--name=x --rm=false image", "--name=x image", {"--rm": False}, id="a long option with its value"),
        pytest.param("image --rm=false", "image --rm=false", {}, id="the command's own words"),
        pytest.param("-- --rm=false -d", "-- --rm=false -d", {}, id="after two dashes"),
        pytest.param("-i - --rm=false", "--interactive - --rm=false", {}, id="a dash alone is a word"),
        pytest.param(
            "--unknown=x --rm=0 image", "--unknown=x image", {"--rm": False}, id="an unknown option is click's"
        ),
        pytest.param("-ix image", "-ix image", {}, id="so is an unknown letter"),
        pytest.param("--name", "--name", {}, id="a value that is missing is click's to say"),
        pytest.param("-e", "--env", {}, id="also of a short option"),
    ],
)
def test_the_grammar_of_docker(line: str, words: str, settings: dict[str, bool]) -> None:
    assert FLAGS.split(line.split(), interspersed=False) == (words.split(), settings)


def test_options_may_follow_arguments_where_the_command_allows_it() -> None:
    assert FLAGS.split(["web", "--rm=true"], interspersed=True) == (["web"], {"--rm": True})


def test_a_switch_is_true_or_false() -> None:
    with pytest.raises(FlagError, match="--rm maybe: not true or false"):
        FLAGS.split(["--rm=maybe"], interspersed=False)


@given(
    st.lists(st.sampled_from(["--rm", "--env", "A=b", "--name", "--env=x", "image", "--", "-", "--tty", "--x", "1g"]))
)
def test_without_values_for_switches_nothing_changes(words: list[str]) -> None:
    assert FLAGS.split(words, interspersed=False) == (words, {})


@pytest.mark.parametrize(
    ("words", "value"),
    [([], None), (["--sig-proxy"], True), (["--sig-proxy=true"], True), (["--sig-proxy=false"], False)],
)
def test_a_switch_that_is_true_by_itself_can_be_turned_off(words: list[str], value: bool | None) -> None:
    assert run.make_context("run", [*words, "image"]).params["sig_proxy"] is value

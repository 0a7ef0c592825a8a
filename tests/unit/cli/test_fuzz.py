"""Whatever a command line says, it is understood or refused; nothing else may come of it."""

from __future__ import annotations

from typing import Any, Final

import click
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plugengine.cli.commands.run import run
from plugengine.cli.gotemplate import Template
from plugengine.cli.parse.errors import CommandLineError
from plugengine.cli.parse.ports import check_address
from plugengine.cli.spec import Surroundings, container_spec
from plugengine.errors import UsageError

AROUND: Final = Surroundings(environ={"HOME": "/root"}, directory="/here", processors=2)
# Files named by these are read, and what is in them is another test's.
OPTIONS: Final = sorted(
    max(option.opts, key=len)
    for option in run.params
    if isinstance(option, click.Option) and not option.is_flag and "file" not in (option.name or "")
)
# What values are made of, so that many are almost right.
PARTS: Final = (
    "type=bind", "source=/a", "target=/b", "volume-subpath=", "readonly", "a", "/x", "/dev/null", "80", "8080-8090",
    "127.0.0.1", "[::1]", "::", "512m", "1.5", "-1", "0", "9" * 400, "\u0663", "rw", "ro", "z", "nofile", "container",
    "host", "auto", "seccomp", "c 1:3", "*", "rwm", "SIGTERM", "RTMIN", "no-new-privileges",
)  # fmt: skip
SIGNS: Final = (":", "=", ",", "/", "-", ".", "+", " ", '"', "\n", "\0", "\r", "\x1b", "'", "%", "\\", "é")

values = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from((*PARTS, *SIGNS)), max_size=9).map("".join),
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(OPTIONS), values)
@example("--mount", '"a",6"b"\nc')
@example("--add-host", "db:::\0")
@example("--ip", "9" * 5000 + ".1.1.1")
@example("--dns", "1.2.3." + "9" * 5000)
def test_a_value_is_understood_or_refused(option: str, value: str) -> None:
    try:
        given_values = dict(run.make_context("run", [f"{option}={value}", "image"]).params)
        image, *rest = given_values.pop("words")
        found = container_spec(image, tuple(rest), given_values, AROUND)
    except (UsageError, click.UsageError):
        return
    assert found.image == "image"


@pytest.mark.parametrize("address", ["::\0", "\0", "1.2.3.4\0", "9" * 5000, "1.2.3." + "9" * 5000, ""])
def test_an_address_is_one_or_refused(address: str) -> None:
    with pytest.raises(CommandLineError):
        check_address("--dns", address, address)


templates = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            ("{{", "}}", ".", ".A", ".B.C", "$", "$x", ":=", "|", "(", ")", "if ", "else", "end", "range ",
             "printf ", '"%d"', '"%*d"', '"%c"', '"%.9f"', "index ", "len ", "slice ", "eq ", "join ", "1", "-1",
             '"x"', "99999999999999999999", " ")
        ),
        max_size=14,
    ).map("".join),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(templates)
@example('{{printf "%999999999d" 1}}')
@example('{{printf "%.999999999f" 1.0}}')
@example('{{printf "%*d" 999999999 1}}')
@example('{{printf "%c" 99999999999}}')
@example("{{" + "(" * 3000 + ".A" + ")" * 3000 + "}}")
@example("{{if .A}}" * 3000 + "{{end}}" * 3000)
def test_a_template_is_understood_or_refused(text: str) -> None:
    value: dict[str, Any] = {"A": 1, "B": {"C": ["x", None, 2.5]}}
    try:
        shown = Template(text).render(value)
    except CommandLineError:
        return
    assert len(shown) < 10_000 + len(text)

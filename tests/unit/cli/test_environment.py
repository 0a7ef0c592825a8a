from __future__ import annotations

from pathlib import Path

import pytest

from plugengine.cli.parse.environment import parse_pairs, read_text, resolve_env, resolve_labels
from plugengine.cli.parse.errors import FlagError

HERE = {"HOME": "/root", "LANG": "C"}


@pytest.mark.parametrize(
    ("values", "resolved"),
    [
        pytest.param(["A=b"], ("A=b",), id="value"),
        pytest.param(["A="], ("A=",), id="empty value"),
        pytest.param(["A=b=c"], ("A=b=c",), id="equals sign in the value"),
        pytest.param(["HOME"], ("HOME=/root",), id="the caller's"),
        pytest.param(["NOWHERE"], ("NOWHERE",), id="the caller has none"),
        pytest.param(["NOWHERE=1", "NOWHERE"], ("NOWHERE",), id="the last one takes away"),
        pytest.param(["A=1", "A=2"], ("A=2",), id="the last one wins"),
        pytest.param(["A= b "], ("A= b ",), id="blanks are the value's"),
    ],
)
def test_variables(values: list[str], resolved: tuple[str, ...]) -> None:
    assert resolve_env(values, [], HERE) == resolved


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        pytest.param("A=b\nC=d\n", ("A=b", "C=d"), id="lines"),
        pytest.param("# no\n\n  \nA=b # yes\n", ("A=b # yes",), id="comments only at the beginning"),
        pytest.param('A="b"\n', ('A="b"',), id="no quoting"),
        pytest.param("HOME\nNOWHERE\n", ("HOME=/root",), id="a name alone is the caller's"),
        pytest.param("  A=b", ("A=b",), id="blanks before the name"),
        pytest.param("A=b  \n", ("A=b  ",), id="blanks behind the value"),
        pytest.param("A=b\r\nC=d\r\n", ("A=b", "C=d"), id="lines of DOS"),
        pytest.param("\ufeffA=b\n", ("A=b",), id="byte order mark"),
        pytest.param("A=b\x0bc\n", ("A=b\x0bc",), id="only newlines end lines"),
        pytest.param("A=b\rPATH\n", ("A=b\rPATH",), id="a carriage return alone ends no line"),
    ],
)
def test_files_of_variables(text: str, resolved: tuple[str, ...]) -> None:
    assert resolve_env([], [("file", text)], HERE) == resolved


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "vars").write_bytes(b"A=b\rPATH\r\nB=c\n")
    text = read_text("--env-file", str(tmp_path / "vars"))
    assert resolve_env([], [("vars", text)], {"PATH": "/of/the/host"}) == ("A=b\rPATH", "B=c")


def test_the_command_line_wins_over_a_file() -> None:
    assert resolve_env(["A=line"], [("one", "A=file\nB=file\n"), ("two", "B=second\n")], HERE) == ("A=line", "B=second")


@pytest.mark.parametrize(("text", "why"), [("=b\n", "line 1: no name"), ("A=1\nA B=c\n", "line 2: blanks in the name")])
def test_a_bad_line_is_named(text: str, why: str) -> None:
    with pytest.raises(FlagError, match=f"--env-file vars: {why}"):
        resolve_env([], [("vars", text)], HERE)


@pytest.mark.parametrize("value", ["", "=b"])
def test_a_variable_needs_a_name(value: str) -> None:
    with pytest.raises(FlagError, match="needs a name"):
        resolve_env([value], [], HERE)


def test_labels_of_files_and_flags() -> None:
    found = resolve_labels(["team=web", "empty"], [("file", "# no\nteam=db\ntier=one\n")])
    assert found == {"team": "web", "tier": "one", "empty": ""}
    with pytest.raises(FlagError, match="needs a key"):
        resolve_labels(["=x"], [])


def test_pairs_need_a_name_and_an_equals_sign() -> None:
    assert parse_pairs("--sysctl", ["net.ipv4.ip_forward=1"], example="a=b") == {"net.ipv4.ip_forward": "1"}
    for text in ("net.ipv4.ip_forward", "=1", ""):
        with pytest.raises(FlagError, match="not NAME=VALUE"):
            parse_pairs("--sysctl", [text], example="a=b")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FlagError, match="no such file"):
        read_text("--env-file", str(tmp_path / "none"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(FlagError, match="not UTF-8"):
        read_text("--env-file", str(tmp_path / "binary"))

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.cli.gotemplate import Template, columns_of
from plugengine.cli.parse.errors import CommandLineError

VALUE: dict[str, Any] = {
    "ID": "abc",
    "Name": "/web",
    "Count": 3,
    "Nothing": None,
    "State": {"Status": "running", "Running": True, "ExitCode": 0},
    "Config": {"Labels": {"team": "web", "a.b": "c"}, "Cmd": ["sh", "-c", "true"]},
    "NetworkSettings": {
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "443/tcp": []},
        "Networks": {"bridge": {"IPAddress": "10.88.0.2"}},
    },
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param("plain", "plain", id="text"),
        pytest.param("{{.ID}}", "abc", id="field"),
        pytest.param("{{ .ID }} and {{.Name}}", "abc and /web", id="fields and text"),
        pytest.param("{{.State.Status}}", "running", id="nested field"),
        pytest.param("{{.State.Running}}", "true", id="truth"),
        pytest.param("{{.Count}}", "3", id="number"),
        pytest.param("{{.Nothing}}", "<no value>", id="null"),
        pytest.param("{{.Config.Cmd}}", "[sh -c true]", id="list"),
        pytest.param("{{.State}}", "map[ExitCode:0 Running:true Status:running]", id="object"),
        pytest.param("{{json .State.Status}}", '"running"', id="json of a field"),
        pytest.param("{{.Config.Cmd | json}}", '["sh","-c","true"]', id="json in a pipe"),
        pytest.param('{{index .Config.Labels "a.b"}}', "c", id="index by key"),
        pytest.param("{{index .Config.Cmd 1}}", "-c", id="index by number"),
        pytest.param(
            '{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "8080", id="field of parentheses"
        ),
        pytest.param('{{index (index .NetworkSettings.Ports "80/tcp") 0 "HostPort"}}', "8080", id="nested index"),
        pytest.param("{{range .Config.Cmd}}<{{.}}>{{end}}", "<sh><-c><true>", id="range"),
        pytest.param(
            "{{range $i, $x := .Config.Cmd}}{{$i}}={{$x}} {{end}}", "0=sh 1=-c 2=true ", id="range, variables"
        ),
        pytest.param(
            "{{range $k, $v := .NetworkSettings.Ports}}{{$k}} {{end}}", "443/tcp 80/tcp ", id="range of a map"
        ),
        pytest.param("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "10.88.0.2", id="range of objects"),
        pytest.param("{{range .Nothing}}x{{else}}none{{end}}", "none", id="range of nothing"),
        pytest.param("{{if .State.Running}}up{{else}}down{{end}}", "up", id="if"),
        pytest.param("{{if .State.ExitCode}}bad{{else}}good{{end}}", "good", id="zero is false"),
        pytest.param('{{if eq .State.Status "exited"}}1{{else if .State.Running}}2{{else}}3{{end}}', "2", id="else if"),
        pytest.param("{{with .State}}{{.Status}} of {{$.ID}}{{end}}", "running of abc", id="with"),
        pytest.param("{{with .Nothing}}x{{else}}y{{end}}", "y", id="with nothing"),
        pytest.param("{{$x := .ID}}{{$x}}", "abc", id="variable"),
        pytest.param('{{upper .ID}} {{.ID | lower}} {{title "web"}}', "ABC abc Web", id="cases"),
        pytest.param("{{len .Config.Cmd}} {{len .ID}}", "3 3", id="len"),
        pytest.param('{{join .Config.Cmd ","}} {{split .Name "/" | len}}', "sh,-c,true 2", id="join and split"),
        pytest.param("{{truncate .Name 2}}{{pad .ID 1 1}}{{slice .Name 1}}", "/w abc web", id="cuts"),
        pytest.param('{{printf "%s-%d-%v-%q" .ID 7 .Count "x"}}', 'abc-7-3-"x"', id="printf"),
        pytest.param('{{print "a" "b"}}{{println "c"}}', "a bc\n", id="print"),
        pytest.param("{{and .ID .Nothing}} {{or .Nothing .ID}} {{not .ID}}", "<no value> abc false", id="logic"),
        pytest.param('{{ne .ID "x"}}{{lt 1 2}}{{ge 1 2}}', "truetruefalse", id="comparisons"),
        pytest.param('{{"}}"}}{{`a"b`}}', '}}a"b', id="braces and quotes in strings"),
        pytest.param("a  {{- .ID -}}  b", "aabcb", id="trimmed blanks"),
        pytest.param("{{/* nothing */}}x", "x", id="comment"),
        pytest.param("{{.Config.Labels.none}}", "<no value>", id="a label that is not there"),
        pytest.param("{{.Nothing.More}}", "<no value>", id="a field of null"),
    ],
)
def test_templates_render_as_in_go(template: str, text: str) -> None:
    assert Template(template).render(VALUE) == text


def test_json_of_all_is_the_value_itself() -> None:
    assert json.loads(Template("{{json .}}").render(VALUE)) == VALUE


@pytest.mark.parametrize(
    ("template", "why"),
    [
        pytest.param("{{.ID", "braces are not closed", id="open braces"),
        pytest.param("{{if .ID}}x", "if without an end", id="no end"),
        pytest.param("x{{end}}", "end without a beginning", id="no beginning"),
        pytest.param("{{nosuch .ID}}", "nosuch is not understood", id="unknown function"),
        pytest.param("{{(.ID}}", "parenthesis is not closed", id="parenthesis"),
        pytest.param("{{.ID | }}", "nothing between", id="empty pipe"),
        pytest.param("{{.ID ~ }}", "~ is not understood", id="unknown sign"),
    ],
)
def test_what_is_no_template_says_why(template: str, why: str) -> None:
    with pytest.raises(CommandLineError, match=why):
        Template(template)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        pytest.param("{{.Stat}}", r"there is no \.Stat, did you mean \.State\?", id="misspelt"),
        pytest.param("{{.State.Zzz}}", r"there is no \.Zzz; there are Status, Running", id="unknown"),
        pytest.param("{{.ID.More}}", r"\.More of str: it has no fields", id="field of text"),
        pytest.param("{{$x}}", r"no variable \$x", id="unknown variable"),
        pytest.param("{{index .Config.Cmd 9}}", "index: .*9 of 3 items", id="index outside"),
        pytest.param("{{len .Count}}", "len:", id="len of a number"),
        pytest.param("{{lt .ID 1}}", "lt:", id="text and number"),
        pytest.param("{{range .Count}}x{{end}}", "it holds no items", id="range of a number"),
        pytest.param("{{.ID .Name}}", "only a function takes arguments", id="argument of a field"),
    ],
)
def test_what_cannot_be_rendered_says_why(template: str, why: str) -> None:
    with pytest.raises(CommandLineError, match=why):
        Template(template).render(VALUE)


@given(st.text(alphabet='{}.ID -|()"$:=end if range', max_size=30))
def test_any_text_renders_or_is_an_error_of_ours(text: str) -> None:
    try:
        assert isinstance(Template(text).render(VALUE), str)
    except CommandLineError:
        pass


def test_the_columns_of_a_template_are_the_fields_it_shows() -> None:
    assert columns_of(Template("{{.ID}} {{json .State.Status}} x")) == ["ID", "Status"]

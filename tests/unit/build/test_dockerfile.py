"""Instructions of a Dockerfile and what they do to an image's config; the values are what docker makes of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.build.config import parse_changes
from plugengine.errors import UsageError
from plugengine.images.ports import expand
from plugengine.quantities import duration_ns

SECOND = 1_000_000_000
SHELL = ["/bin/sh", "-c"]

TABLE: list[tuple[list[str], dict[str, Any]]] = [
    # commands
    (['CMD ["sh", "-c", "x"]'], {"Cmd": ["sh", "-c", "x"]}),
    (["CMD run  me"], {"Cmd": [*SHELL, "run  me"]}),
    (["CMD ['not', 'json']"], {"Cmd": [*SHELL, "['not', 'json']"]}),
    (["CMD $NAME 'is left' to the \"shell\""], {"Cmd": [*SHELL, "$NAME 'is left' to the \"shell\""]}),
    (["CMD []"], {"Cmd": []}),
    (["cmd a \\\n   b"], {"Cmd": [*SHELL, "a    b"]}),
    (["# escape=`\nCMD a `\nb"], {"Cmd": [*SHELL, "a b"]}),
    (["# a comment\n\nCMD a"], {"Cmd": [*SHELL, "a"]}),
    (["ENTRYPOINT run me"], {"Entrypoint": [*SHELL, "run me"]}),
    (['ENTRYPOINT ["/e"]', "CMD x"], {"Entrypoint": ["/e"], "Cmd": [*SHELL, "x"]}),
    (["CMD x", 'ENTRYPOINT ["/e"]'], {"Entrypoint": ["/e"], "Cmd": [*SHELL, "x"]}),
    (['SHELL ["/bin/bash", "-ec"]', "CMD x"], {"Shell": ["/bin/bash", "-ec"], "Cmd": ["/bin/bash", "-ec", "x"]}),
    # variables
    (["ENV A=1 B='two words' C=\"d e\" D=f\\ g"], {"Env": ["A=1", "B=two words", "C=d e", "D=f g"]}),
    (["ENV A one two"], {"Env": ["A=one two"]}),
    (["ENV A=1", "ENV B=2", "ENV A=3"], {"Env": ["A=3", "B=2"]}),
    (["ENV A=1", "ENV A=2 B=$A"], {"Env": ["A=2", "B=1"]}),
    (["ENV A=1", "ENV B=${A}x C=${NONE:-d} D=${A:+set} E=$NONE F='$A' G=\\$A"],
     {"Env": ["A=1", "B=1x", "C=d", "D=set", "E=", "F=$A", "G=$A"]}),
    (["ENV A=a.tar.gz", "ENV B=${A%.*} C=${A%%.*} D=${A#*.} E=${A/a/b}"],
     {"Env": ["A=a.tar.gz", "B=a.tar", "C=a", "D=tar.gz", "E=b.tar.gz"]}),
    (["ENV A="], {"Env": ["A="]}),
    (["LABEL k=v", 'LABEL k=w "a key"="a value"', "LABEL old form"],
     {"Labels": {"k": "w", "a key": "a value", "old": "form"}}),
    # ports
    (["EXPOSE 80 53/udp 9/SCTP"], {"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "9/sctp": {}}}),
    (["EXPOSE 9000-9002"], {"ExposedPorts": {"9000/tcp": {}, "9001/tcp": {}, "9002/tcp": {}}}),
    (["EXPOSE 7-8/udp"], {"ExposedPorts": {"7/udp": {}, "8/udp": {}}}),
    (["EXPOSE 8080:80"], {"ExposedPorts": {"80/tcp": {}}}),
    (["ENV P='80 443'", "EXPOSE $P"], {"Env": ["P=80 443"], "ExposedPorts": {"80/tcp": {}, "443/tcp": {}}}),
    (["EXPOSE 80", "EXPOSE 81"], {"ExposedPorts": {"80/tcp": {}, "81/tcp": {}}}),
    # places
    (["WORKDIR /x"], {"WorkingDir": "/x"}),
    (["WORKDIR /x", "WORKDIR y"], {"WorkingDir": "/x/y"}),
    (["WORKDIR y"], {"WorkingDir": "/y"}),
    (["WORKDIR /x", "WORKDIR ../y/./z/"], {"WorkingDir": "/y/z"}),
    (["WORKDIR //x//y"], {"WorkingDir": "/x/y"}),
    (["WORKDIR /with space"], {"WorkingDir": "/with space"}),
    (["ENV H=/h", "WORKDIR $H/w"], {"Env": ["H=/h"], "WorkingDir": "/h/w"}),
    (['VOLUME ["/a b", "/c"]', "VOLUME /d /e"], {"Volumes": {"/a b": {}, "/c": {}, "/d": {}, "/e": {}}}),
    (["USER nobody:games"], {"User": "nobody:games"}),
    (["ENV U=me", "USER ${U}"], {"Env": ["U=me"], "User": "me"}),
    # the rest
    (["STOPSIGNAL SIGINT"], {"StopSignal": "SIGINT"}),
    (["STOPSIGNAL 9"], {"StopSignal": "9"}),
    (["ONBUILD RUN make  $X", "onbuild COPY . /"], {"OnBuild": ["RUN make  $X", "COPY . /"]}),
    (["HEALTHCHECK NONE"], {"Healthcheck": {"Test": ["NONE"]}}),
    (["HEALTHCHECK CMD curl -f x"], {"Healthcheck": {"Test": ["CMD-SHELL", "curl -f x"]}}),
    (['HEALTHCHECK --interval=1m30s --timeout=500ms --start-period=0s --start-interval=1s --retries=5 CMD ["true"]'],
     {"Healthcheck": {"Test": ["CMD", "true"], "Interval": 90 * SECOND, "Timeout": SECOND // 2, "StartPeriod": 0,
                      "StartInterval": SECOND, "Retries": 5}}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "config"), TABLE, ids=lambda value: value[-1] if isinstance(value, list) else "")
def test_instructions_change_the_config_as_in_docker(changes: list[str], config: dict[str, Any]) -> None:
    assert parse_changes(changes) == config


def test_what_a_config_has_already_is_kept_or_replaced_and_itself_unchanged() -> None:
    base = {
        "Env": ["PATH=/bin", "A=1"], "Cmd": ["old"], "WorkingDir": "/srv", "Volumes": {"/v": {}},
        "ExposedPorts": {"1/tcp": {}}, "Labels": {"k": "v"}, "OnBuild": ["RUN x"], "Shell": ["/s"], "User": "u",
    }  # fmt: skip
    before = repr(base)
    changes = [
        "ENV PATH=/x:$PATH", "WORKDIR w", "VOLUME /w", "EXPOSE 2", "LABEL l=w", "ONBUILD RUN y", "ENTRYPOINT e",
    ]  # fmt: skip
    assert parse_changes(changes, base) == {
        "Env": ["PATH=/x:/bin", "A=1"], "Entrypoint": ["/s", "e"], "WorkingDir": "/srv/w",
        "Volumes": {"/v": {}, "/w": {}}, "ExposedPorts": {"1/tcp": {}, "2/tcp": {}}, "Labels": {"k": "v", "l": "w"},
        "OnBuild": ["RUN x", "RUN y"], "Shell": ["/s"], "User": "u",
    }  # fmt: skip
    assert repr(base) == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("RUN true", "not one of CMD, ENTRYPOINT, ENV"),
        ("FROM scratch", "not one of"),
        ("COPY a b", "not one of"),
        ("NONSENSE x", "unknown instruction: NONSENSE"),
        ("CMD", "needs a value"),
        ("CMD [1]", "only strings"),
        ("CMD --flag x", "unknown flag --flag"),
        ("CMD " + "[" * 100_000, "too deep"),
        ("ENV", "needs a value"),
        ("ENV A", "must have two arguments"),
        ("ENV A=1 B", "can't find ="),
        ("ENV =x", "a name is empty"),
        ("ENV A='x", "single-quote"),
        ("ENV A=${B", "missing '}'"),
        ("ENV A=${B:?needed}", "B: needed"),
        ("LABEL =x", "a name is empty"),
        ("EXPOSE", "needs a value"),
        ("EXPOSE x", "port x is not a number"),
        ("EXPOSE 70000", "not between 1 and 65535"),
        ("EXPOSE 3-2", "run backwards"),
        ("EXPOSE 80/icmp", "icmp is no protocol"),
        ("USER $NOBODY", "is empty"),
        ("WORKDIR $NOWHERE", "is empty"),
        ('VOLUME ["/a", ""]', "a path is empty"),
        ("VOLUME []", "a path is empty"),
        ("SHELL /bin/bash", "needs a JSON list"),
        ("SHELL []", "needs a JSON list"),
        ("STOPSIGNAL SIGNOTHING", "no such signal"),
        ("ONBUILD", "needs an instruction"),
        ("ONBUILD ONBUILD RUN x", "ONBUILD is not allowed as a trigger"),
        ("ONBUILD from x", "FROM is not allowed as a trigger"),
        ("HEALTHCHECK", "needs a value"),
        ("HEALTHCHECK NONE x", "NONE takes no arguments"),
        ("HEALTHCHECK CMD", "not CMD with a command"),
        ("HEALTHCHECK RUN x", "not CMD with a command"),
        ("HEALTHCHECK --interval=soon CMD x", "--interval soon is no duration"),
        ("HEALTHCHECK --interval=1us CMD x", "no duration of 1ms or more"),
        ("HEALTHCHECK --retries=-1 CMD x", "flag --retries=-1 is not one of"),
        ("HEALTHCHECK --often CMD x", "flag --often is not one of"),
    ],
)
def test_a_change_that_is_not_understood_is_refused_with_the_reason(change: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_changes(["ENV GOOD=1", change])
    assert str(caught.value).startswith(f"change {change!r}: ")
    assert reason.lower() in str(caught.value).lower()


@given(st.text(max_size=60))
def test_any_text_changes_a_config_or_is_refused(text: str) -> None:
    for name in ("", "ENV ", "CMD ", "HEALTHCHECK --interval=", "ONBUILD ", "EXPOSE ", "WORKDIR "):
        try:
            parse_changes([name + text])
        except UsageError as error:
            assert str(error).startswith("change ")  # noqa: PT017 - both ways are right


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1h30m", 5400 * SECOND), ("1.5s", SECOND * 3 // 2), ("500ms", SECOND // 2), ("1m5ms", 60_005_000_000),
        ("7us", 7000), ("7µs", 7000), ("9ns", 9), ("0s", 0), ("", None), ("5", None), ("s", None), ("1.2.3s", None),
        ("-1s", None), ("1d", None), ("1s ", None), (".s", None), ("999999999h", None),
    ],
)  # fmt: skip
def test_durations_are_read_as_go_writes_them(text: str, ns: int | None) -> None:
    assert duration_ns(text) == ns


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80", ((80, "tcp"),)),
        ("80-82/udp", ((80, "udp"), (81, "udp"), (82, "udp"))),
        ("1/SCTP", ((1, "sctp"),)),
    ],
)
def test_a_port_or_a_range_is_expanded(text: str, ports: tuple[tuple[int, str], ...]) -> None:
    assert expand(text) == ports


@pytest.mark.parametrize("text", ["", "x", "0", "65536", "80/", "80/x", "2-1", "-1", "1-", "²", "1:2"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"port|protocol"):
        expand(text)

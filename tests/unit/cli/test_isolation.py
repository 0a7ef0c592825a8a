from __future__ import annotations

import pytest

from plugengine.cli.parse.errors import FlagError
from plugengine.cli.parse.isolation import SecurityOptions, parse_mode, parse_network, parse_security, parse_userns


@pytest.mark.parametrize(
    ("namespace", "text", "mode"),
    [
        ("pid", "host", "host"),
        ("pid", "private", "private"),
        ("pid", "container:web", "container:web"),
        ("ipc", "shareable", "private"),
        ("uts", "host", "host"),
        ("cgroup", "private", "private"),
    ],
)
def test_modes(namespace: str, text: str, mode: str) -> None:
    assert parse_mode("--x", namespace, text) == mode


@pytest.mark.parametrize(
    ("namespace", "text"),
    [
        ("pid", "shared"),
        ("pid", "container:"),
        ("pid", "host:web"),
        ("ipc", "none"),
        ("cgroup", "container:web"),
        ("uts", ""),
    ],
)
def test_other_modes_are_refused(namespace: str, text: str) -> None:
    with pytest.raises(FlagError, match="--x"):
        parse_mode("--x", namespace, text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", (None, None)),
        ("default", (None, None)),
        ("none", ("none", None)),
        ("bridge", ("bridge", None)),
        ("my_driver", ("my_driver", None)),
        ("container:web", (None, "container:web")),
    ],
)
def test_networks(text: str, found: tuple[str | None, str | None]) -> None:
    assert parse_network("--net", text) == found


@pytest.mark.parametrize("text", ["container:", "name=web,ip=1.2.3.4", "a,b"])
def test_other_networks_are_refused(text: str) -> None:
    with pytest.raises(FlagError, match="--net"):
        parse_network("--net", text)


@pytest.mark.parametrize("text", ["host", "auto", "100000:100000:65536", "1:1:4294967294"])
def test_user_namespaces(text: str) -> None:
    assert parse_userns("--userns", text) == text


@pytest.mark.parametrize(
    "text", ["", "private", "1:1", "0:1:1", "1:1:0", "a:b:c", "1:1:4294967295", "-1:1:1", "9" * 11]
)
def test_other_user_namespaces_are_refused(text: str) -> None:
    with pytest.raises(FlagError, match="--userns"):
        parse_userns("--userns", text)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], SecurityOptions()),
        (["seccomp=unconfined"], SecurityOptions(seccomp="unconfined")),
        (["seccomp:unconfined"], SecurityOptions(seccomp="unconfined")),
        (["seccomp=builtin"], SecurityOptions()),
        (["seccomp=/profile.json"], SecurityOptions(seccomp="text of /profile.json")),
        (["no-new-privileges"], SecurityOptions(no_new_privileges=True)),
        (["no-new-privileges:true"], SecurityOptions(no_new_privileges=True)),
        (["no-new-privileges=true", "no-new-privileges:false"], SecurityOptions()),
        (["systempaths=unconfined"], SecurityOptions(unmasked=True)),
        (["apparmor=unconfined", "label=disable"], SecurityOptions()),
    ],
)
def test_security_options(values: list[str], found: SecurityOptions) -> None:
    assert parse_security("--security-opt", values, read=lambda _flag, path: f"text of {path}") == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("seccomp", "not seccomp"),
        ("seccomp=", "not seccomp"),
        ("seccomp=/no/such/file", "no such file"),
        ("no-new-privileges=maybe", "not true or false"),
        ("apparmor=docker-default", "apparmor profiles are not supported"),
        ("label=type:x", "label profiles are not supported"),
        ("systempaths=all", "not seccomp"),
        ("", "not seccomp"),
    ],
)
def test_security_options_that_would_not_be_held_are_refused(text: str, why: str) -> None:
    with pytest.raises(FlagError, match=why):
        parse_security("--security-opt", [text])

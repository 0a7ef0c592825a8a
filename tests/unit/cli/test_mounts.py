from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.cli.parse.errors import FlagError
from plugengine.cli.parse.mounts import parse_mount, parse_tmpfs, parse_volume
from plugengine.model import GuestPath
from plugengine.spec import VolumeMount


def mount(type: str, target: str, **more: Any) -> VolumeMount:  # noqa: A002
    return VolumeMount(type=type, target=GuestPath(target), **more)


def bind(source: str, target: str, **more: Any) -> VolumeMount:
    return mount("bind", target, source=source, **more)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("/data", mount("volume", "/data"), id="anonymous"),
        pytest.param("data:/data", mount("volume", "/data", source="data"), id="named"),
        pytest.param("data:/data:ro", mount("volume", "/data", source="data", read_only=True), id="named, read-only"),
        pytest.param("data:/data:nocopy", mount("volume", "/data", source="data", no_copy=True), id="nocopy"),
        pytest.param("/srv:/srv", bind("/srv", "/srv", create_source=True), id="directory"),
        pytest.param("./x:/srv", bind("/here/x", "/srv", create_source=True), id="relative"),
        pytest.param(".:/srv", bind("/here", "/srv", create_source=True), id="the directory itself"),
        pytest.param("../x:/srv", bind("/x", "/srv", create_source=True), id="above"),
        pytest.param(
            "/a:/b:ro,rshared,z",
            bind("/a", "/b", create_source=True, read_only=True, propagation="rshared"),
            id="options",
        ),
        pytest.param("/a:/b:rw,Z,cached", bind("/a", "/b", create_source=True), id="options that say nothing here"),
        pytest.param("/a:/b:", bind("/a", "/b", create_source=True), id="no options after the colon"),
    ],
)
def test_volumes(text: str, expected: VolumeMount) -> None:
    assert parse_volume("-v", text, directory="/here") == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "not an absolute path", id="nothing"),
        pytest.param("data", "target data is not an absolute path", id="name alone"),
        pytest.param("/a:b", "target b is not an absolute path", id="relative target"),
        pytest.param("/a:ro", "target ro is not an absolute path", id="options as target"),
        pytest.param("/a:/", "the target is the root directory", id="root"),
        pytest.param("/a:/b/..", "the target is the root directory", id="root, hidden"),
        pytest.param(":/b", "no source", id="no source"),
        pytest.param("a b:/b", "neither a path", id="no name of a volume"),
        pytest.param("-x:/b", "neither a path", id="a name that looks like an option"),
        pytest.param("/a:/b:rr", "unknown option rr", id="unknown option"),
        pytest.param("/a:/b:nocopy", "nocopy is for volumes", id="nocopy of a directory"),
        pytest.param("data:/b:rshared", "propagation is for bind mounts", id="propagation of a volume"),
        pytest.param("/a:/b:ro:rw", "more than three parts", id="too many parts"),
    ],
)
def test_what_is_no_volume_says_why(text: str, why: str) -> None:
    with pytest.raises(FlagError, match=why):
        parse_volume("-v", text, directory="/here")


@given(text=st.text(alphabet="/.:,abro", max_size=20))
def test_any_text_gives_an_absolute_target_or_an_error_of_ours(text: str) -> None:
    try:
        found = parse_volume("-v", text, directory="/here")
    except FlagError:
        return
    assert found.target.startswith("/")
    assert found.type == "volume" or found.source.startswith("/")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("target=/data", mount("volume", "/data"), id="volume by default"),
        pytest.param("type=volume,src=data,dst=/data", mount("volume", "/data", source="data"), id="short words"),
        pytest.param("type=bind,source=/a,destination=/b", bind("/a", "/b"), id="bind"),
        pytest.param("type=bind,source=./a,target=/b", bind("/here/a", "/b"), id="bind, relative"),
        pytest.param("type=bind,src=/a,dst=/b,ro", bind("/a", "/b", read_only=True), id="ro"),
        pytest.param("type=bind,src=/a,dst=/b,readonly=false", bind("/a", "/b"), id="readonly=false"),
        pytest.param(
            "type=bind,src=/a,dst=/b,bind-propagation=slave", bind("/a", "/b", propagation="slave"), id="slave"
        ),
        pytest.param("type=bind,src=/a,dst=/b,bind-recursive=disabled", bind("/a", "/b", recursive=False), id="flat"),
        pytest.param("type=bind,src=/a,dst=/b,bind-create-src", bind("/a", "/b", create_source=True), id="make it"),
        pytest.param(
            "type=volume,src=data,dst=/data,volume-nocopy,volume-subpath=in/it",
            mount("volume", "/data", source="data", no_copy=True, subpath="in/it"),
            id="nocopy, subpath",
        ),
        pytest.param(
            "type=tmpfs,target=/run,tmpfs-size=64m,tmpfs-mode=1777",
            mount("tmpfs", "/run", options=(("size", str(64 << 20)), ("mode", "1777"))),
            id="tmpfs",
        ),
        pytest.param('type=bind,"src=/a,b",dst=/b', bind("/a,b", "/b"), id="a comma in quotes"),
    ],
)
def test_mounts(text: str, expected: VolumeMount) -> None:
    assert parse_mount("--mount", text, directory="/here") == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "unknown key", id="nothing"),
        pytest.param("type=bind,source=/a", "no target", id="no target"),
        pytest.param("type=bind,target=/b", "needs a source path", id="no source"),
        pytest.param("type=bind,source=data,target=/b", "needs a source path", id="a bind of a name"),
        pytest.param("type=npipe,target=/b", "type npipe is not", id="another type"),
        pytest.param("type=bind,source=/a,target=b", "not an absolute path", id="relative target"),
        pytest.param("type=bind,sorce=/a,target=/b", "unknown key sorce, did you mean source?", id="misspelt"),
        pytest.param("type=bind,src=/a,dst=/b,tmpfs-size=1m", "tmpfs-size is not for type bind", id="another's key"),
        pytest.param("type=tmpfs,src=/a,dst=/b", "a tmpfs has no source", id="tmpfs with a source"),
        pytest.param("type=tmpfs,dst=/b,tmpfs-size=big", "not a size", id="bad size"),
        pytest.param("type=tmpfs,dst=/b,tmpfs-mode=999", "not octal", id="bad mode"),
        pytest.param("type=bind,src=/a,dst=/b,bind-propagation=up", "bind-propagation up", id="bad propagation"),
        pytest.param("type=bind,src=/a,dst=/b,readonly=maybe", "not true or false", id="bad truth"),
        pytest.param("type=bind,src=/a,dst=/b,bind-recursive=readonly", "not enabled or disabled", id="what we cannot"),
    ],
)
def test_what_is_no_mount_says_why(text: str, why: str) -> None:
    with pytest.raises(FlagError, match=why):
        parse_mount("--mount", text, directory="/here")


def test_tmpfs_options_are_passed_on_in_order() -> None:
    assert parse_tmpfs("--tmpfs", "/run:rw,size=64m,exec") == mount(
        "tmpfs", "/run", options=(("rw", None), ("size", "64m"), ("exec", None))
    )
    assert parse_tmpfs("--tmpfs", "/run") == mount("tmpfs", "/run")
    with pytest.raises(FlagError, match="not an absolute path"):
        parse_tmpfs("--tmpfs", "run")

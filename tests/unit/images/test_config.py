"""Configs, manifests and indexes: what is believed of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plugengine.errors import ImageError
from plugengine.images.config import image_config, make_config, parse_config
from plugengine.images.manifest import (
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    choose_platform,
    make_manifest,
    parse_index,
    parse_manifest,
)
from plugengine.kernel.machine import architecture

DIGEST = "sha256:" + "a" * 64
LAYER = {"mediaType": OCI_LAYER, "digest": DIGEST, "size": 3}
CONFIG = {"mediaType": OCI_CONFIG, "digest": DIGEST, "size": 2}
MANIFEST = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}
INDEX = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{**LAYER, "mediaType": OCI_MANIFEST}]}


def encoded(data: Any) -> bytes:
    return json.dumps(data).encode()


def test_a_config_is_read_as_docker_writes_it() -> None:
    config = image_config(
        {
            "config": {
                "Entrypoint": ["/e"],
                "Cmd": None,
                "Env": ["A=b", "broken", "=worse", "C="],
                "WorkingDir": "/w",
                "User": "u:g",
                "Volumes": {"/v": {}, "/a": {}},
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "99": {}},
                "StopSignal": "SIGQUIT",
                "Labels": {"k": "v"},
                "Healthcheck": {"Test": ["NONE"]},
            }
        }
    )
    assert (config.entrypoint, config.cmd, config.env) == (("/e",), (), ("A=b", "C="))
    assert (config.working_dir, config.user, config.stop_signal) == ("/w", "u:g", "SIGQUIT")
    assert (config.volumes, config.exposed_ports, config.labels) == (
        ("/a", "/v"),
        ("53/udp", "80/tcp", "99/tcp"),
        {"k": "v"},
    )


WRONG_TYPES: dict[str, list[Any]] = {
    "string": [0, False, 7, [], {}],
    "list of strings": ["sh", 0, False, {}, [1], [None], [["x"]]],
    "set of names": ["/v", 0, False, [], ["/v"], {"/v": 1}],
    "object of strings": ["k", 0, False, [], {"k": 1}, {"k": None}],
    "number": ["1", False, 1.5, []],
    "truth": ["true", 0, []],
}
TYPE_OF = {
    **dict.fromkeys(("User", "WorkingDir", "StopSignal", "Hostname", "Domainname", "Image", "MacAddress"), "string"),
    **dict.fromkeys(("Env", "Entrypoint", "Cmd", "OnBuild", "Shell"), "list of strings"),
    **dict.fromkeys(("Volumes", "ExposedPorts"), "set of names"),
    "Labels": "object of strings",
    "StopTimeout": "number",
    **dict.fromkeys(("Tty", "OpenStdin", "StdinOnce", "ArgsEscaped", "NetworkDisabled", "AttachStdin"), "truth"),
}


@pytest.mark.parametrize("name", TYPE_OF)
def test_a_member_of_the_wrong_type_is_refused_by_name_even_if_it_is_false(name: str) -> None:
    document = {"rootfs": {"diff_ids": [DIGEST]}}
    for value in WRONG_TYPES[TYPE_OF[name]]:
        with pytest.raises(ImageError, match=rf"^c: config\.{name}(\[.*\])?: expected .*, got "):
            parse_config(encoded({**document, "config": {name: value}}), "c")
    parse_config(encoded({**document, "config": {name: None}}), "c")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": ["x"]}, "config: expected object"),
        ({"config": 0}, "config: expected object"),
        ({"config": {"Healthcheck": {"Interval": "30s"}}}, "config.Healthcheck.Interval: expected int"),
        ({"config": {"Healthcheck": {"Test": "true"}}}, "config.Healthcheck.Test: expected array"),
        ({"config": {"Entrypoint": ["a\0b"]}}, "config.Entrypoint: holds a NUL"),
        ({"config": {"User": "a\0"}}, "config.User: holds a NUL"),
        ({"config": {"Labels": {"a\0": ""}}}, "config.Labels: holds a NUL"),
        ({"config": {"Volumes": {"/v\0": {}}}}, "config.Volumes: holds a NUL"),
        ({"config": {"Healthcheck": {"Test": ["CMD", "\0"]}}}, "config.Healthcheck: holds a NUL"),
        ({"rootfs": None}, "rootfs: expected object"),
        ({"rootfs": {}}, "rootfs: object missing required field diff_ids"),
        ({"rootfs": {"diff_ids": ["sha256:../../etc"]}}, "rootfs.diff_ids"),
        ({"rootfs": {"diff_ids": "x"}}, "rootfs.diff_ids: expected array"),
        ({"rootfs": {"diff_ids": [DIGEST] * 501}}, "has 501 layers, more than the 500 that overlayfs takes"),
        ({"architecture": 3}, "architecture: expected str"),
        ({"os": False}, "os: expected str"),
        ({"created": 0}, "created: expected str"),
        ({"history": [{"created_by": 0}]}, r"history\[0\].created_by: expected str"),
        ({"history": {}}, "history: expected array"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_config_of_the_wrong_shape_is_refused_with_the_member(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        parse_config(encoded({"rootfs": {"diff_ids": [DIGEST]}, **change}), "config")


def test_members_nobody_knows_are_left_alone() -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"x\0": [deep]}
    found = parse_config(encoded({"rootfs": {"diff_ids": []}, "config": {"New": deep, "Volumes": {"/v": deep}}}), "c")
    assert list(found["config"]["Volumes"]) == ["/v"]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe{\0}\0", b"[" * 100_000, b"\xef\xbb\xbf{}", b"nan"])
def test_a_config_that_is_no_json_object_in_utf_8_is_refused(content: bytes) -> None:
    with pytest.raises(ImageError, match=r"config: not (JSON|a JSON object)"):
        parse_config(content, "config")


def test_our_own_configs_and_manifests_depend_on_their_content_alone() -> None:
    one = make_config(diff_ids=[DIGEST], created="t", created_by="c", config={"A": 1, "B": 2})
    two = make_config(diff_ids=[DIGEST], created="t", created_by="c", config={"B": 2, "A": 1})
    assert one == two
    assert parse_config(one, "c")["architecture"] == architecture()
    config = Descriptor(media_type=OCI_CONFIG, digest=DIGEST, size=len(one))
    layer = Descriptor(media_type=OCI_LAYER, digest=DIGEST, size=5)
    parsed = parse_manifest(make_manifest(config, [layer]), OCI_MANIFEST, "m")
    assert (parsed.config, parsed.layers) == (config, (layer,))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"manifests": []}, "ambiguous"),
        ({"fsLayers": []}, "ambiguous"),
        ({"mediaType": OCI_INDEX}, "was announced as"),
        ({"mediaType": DOCKER_MANIFEST}, "was announced as"),
        ({"schemaVersion": 1}, "schema version 1 is not supported"),
        ({"layers": None}, "layers is not a list"),
        ({"config": None}, "config: not an object"),
        ({"config": {**CONFIG, "mediaType": "application/vnd.wasm"}}, "not a container image"),
        ({"layers": [{**LAYER, "mediaType": "text/plain"}]}, "unknown kind text/plain"),
        ({"layers": [{**LAYER, "digest": "sha256:../../../etc/passwd"}]}, "not sha256"),
        ({"layers": [{**LAYER, "digest": "md5:" + "0" * 32}]}, "not sha256"),
        ({"layers": [{**LAYER, "digest": DIGEST + "\n"}]}, "not sha256"),
        ({"layers": [{**LAYER, "size": -1}]}, "not a number of bytes"),
        ({"layers": [{**LAYER, "size": True}]}, "not a number of bytes"),
        ({"layers": [{**LAYER, "size": 1.5}]}, "not a number of bytes"),
        ({"layers": [{"digest": DIGEST, "size": 1}]}, "has no media type"),
        ({"layers": [{**LAYER, "annotations": False}]}, "annotations or platform is not an object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_manifest_that_could_mislead_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        parse_manifest(encoded({**MANIFEST, **change}), OCI_MANIFEST, "m")


@pytest.mark.parametrize("member", ["config", "layers"])
def test_an_index_that_is_also_a_manifest_is_refused(member: str) -> None:
    with pytest.raises(ImageError, match="ambiguous"):
        parse_index(encoded({**INDEX, member: MANIFEST[member]}), OCI_INDEX, "i")


def platform(architecture: str, os: str = "linux", digit: str = "1") -> Descriptor:
    return Descriptor(
        media_type=OCI_MANIFEST,
        digest="sha256:" + digit * 64,
        size=1,
        platform={"architecture": architecture, "os": os},
    )


def test_the_manifest_for_this_machine_is_chosen() -> None:
    mine = platform(architecture(), digit="2")
    assert choose_platform([platform("s390y"), platform("unknown", "unknown"), mine], "i") is mine


def test_a_lone_manifest_without_a_platform_is_taken_and_attestations_do_not_count() -> None:
    lone = Descriptor(media_type=OCI_MANIFEST, digest=DIGEST, size=1)
    assert choose_platform([platform("unknown", "unknown"), lone], "i") is lone


def test_an_image_for_other_machines_only_is_refused_naming_them() -> None:
    with pytest.raises(ImageError, match=f"no image for linux/{architecture()}, only linux/s390y, plan9/mips"):
        choose_platform([platform("s390y"), platform("mips", "plan9")], "i")

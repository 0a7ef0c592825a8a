"""Containers of images that carry a configuration, made here byte by byte and loaded as any archive."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plugengine.kernel import machine
from tests.conftest import Pe
from tests.system.conftest import Start, eventually
from tests.system.test_users import add_file
from tests.waiting import PATIENCE_S

NONE = ("--net", "none")
RUN = ("run", "--rm", *NONE)

Build = Callable[..., str]


def layer(*members: tuple[str, bytes, dict[str, object]]) -> bytes:
    """Return a layer tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data, attributes in members:
            add_file(tar, name, data, **attributes)
    return buffer.getvalue()


def docker_archive(
    path: Path, name: str, config: dict[str, Any], layers: list[bytes], *, architecture: str | None = None
) -> None:
    """Write what `docker save` writes."""
    diff_ids = [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in layers]
    image = {
        "architecture": architecture or machine.architecture(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": [f"{n}/layer.tar" for n in range(len(layers))]}]
    with tarfile.open(path, "w") as tar:
        add_file(tar, "manifest.json", json.dumps(manifest).encode())
        add_file(tar, "config.json", json.dumps(image).encode())
        for number, data in enumerate(layers):
            add_file(tar, f"{number}/layer.tar", data)


@pytest.fixture(scope="module")
def base_layer(pe_env: Pe, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The files of host:base as one layer."""
    directory = tmp_path_factory.mktemp("base")
    script = "tar -C / --one-file-system --exclude=./out -cf /out/base.tar ."
    pe_env(*RUN, "-v", f"{directory}:/out", "host:base", "sh", "-c", script, check=True)
    return (directory / "base.tar").read_bytes()


@pytest.fixture
def build(pe: Pe, tmp_path: Path, base_layer: bytes) -> Iterator[Build]:
    """Load an image of host:base, more layers and a configuration; it is removed with the test."""
    names: list[str] = []

    def load(config: dict[str, Any], *layers: bytes, architecture: str | None = None) -> str:
        name = f"test-image:{len(names)}"
        docker_archive(tmp_path / "image.tar", name, config, [base_layer, *layers], architecture=architecture)
        pe("load", "-i", str(tmp_path / "image.tar"), check=True)
        names.append(name)
        return name

    yield load
    for name in names:
        pe("rmi", "-f", name)


def test_entrypoint_and_cmd_of_the_image_are_the_command(pe: Pe, build: Build) -> None:
    image = build({"Entrypoint": ["echo", "entry"], "Cmd": ["default"]})
    assert pe(*RUN, image, check=True).stdout == "entry default\n"
    assert pe(*RUN, image, "given", check=True).stdout == "entry given\n"
    assert pe(*RUN, "--entrypoint", "printf", image, "%s", "x", check=True).stdout == "x"


def test_an_image_without_a_command_needs_one(pe: Pe, build: Build) -> None:
    image = build({})
    done = pe(*RUN, image)
    assert done.returncode == 125
    assert "no command" in done.stderr
    assert pe(*RUN, image, "echo", "ok", check=True).stdout == "ok\n"
    refused = pe("create", "--net", "none", image)
    assert refused.returncode == 125
    assert "no command" in refused.stderr
    assert pe("ps", "-aq", check=True).stdout == ""


def test_an_empty_entrypoint_drops_the_image_s_command_too(pe: Pe, build: Build) -> None:
    image = build({"Entrypoint": ["echo", "entry"], "Cmd": ["default"]})
    assert pe(*RUN, "--entrypoint", "", image, "echo", "given", check=True).stdout == "given\n"
    refused = pe(*RUN, "--entrypoint=", image)
    assert refused.returncode == 125
    assert "no command" in refused.stderr


def test_what_runs_is_told_alike_by_ps_inspect_and_the_kernel(pe: Pe, build: Build, start: Start) -> None:
    image = build({"Entrypoint": ["echo", "entry"], "Cmd": ["default"]})
    name = start("--net", "none", "--entrypoint", "sleep", image, "1000")
    assert pe("exec", name, "cat", "/proc/1/cmdline", check=True).stdout == "sleep\0001000\0"
    assert pe("ps", "--format", "{{.Command}}", check=True).stdout == '"sleep 1000"\n'
    (found,) = json.loads(pe("inspect", name, check=True).stdout)
    assert (found["Path"], found["Args"]) == ("sleep", ["1000"])
    assert (found["Config"]["Entrypoint"], found["Config"]["Cmd"]) == (["sleep"], ["1000"])


def test_a_name_the_caller_does_not_have_takes_the_image_s_variable_away(pe: Pe, build: Build) -> None:
    image = build({"Env": ["COLOUR=green", "SIZE=1"], "Cmd": ["env"]})
    assert "COLOUR" not in os.environ
    seen = pe(*RUN, "-e", "COLOUR", image, check=True).stdout.splitlines()
    assert "SIZE=1" in seen
    assert not any(line.startswith("COLOUR") for line in seen)
    pe("create", "--net", "none", "--name", "kept", "-e", "COLOUR", "-e", "A=b", image, check=True)
    try:
        (found,) = json.loads(pe("inspect", "kept", check=True).stdout)
        assert found["Config"]["Env"] == ["COLOUR", "A=b", "SIZE=1"]
    finally:
        pe("rm", "kept", check=True)


def test_an_image_for_another_machine_is_said_so(pe: Pe, build: Build) -> None:
    """Its programs may run all the same, where an emulator is installed; if not, the hint says what to do."""
    strange: tuple[str, bytes, dict[str, object]] = (
        "usr/bin/strange",
        b"\x7fELF\x02\x01\x01" + bytes(57),
        {"mode": 0o755},
    )
    image = build({"Cmd": ["true"]}, layer(strange), architecture="s390x")
    said = f"is for linux/s390x, and this machine is {machine.platform()}"
    done = pe(*RUN, image, check=True)
    assert said in done.stderr
    refused = pe(*RUN, image, "strange")
    assert refused.returncode == 126
    assert "exec format error" in refused.stderr.lower()
    assert said in refused.stderr
    assert "emulator" in refused.stderr


def test_an_image_for_this_machine_or_for_none_is_not_spoken_of(pe: Pe, build: Build) -> None:
    for architecture in (machine.architecture(), {"amd64": "386", "arm64": "arm"}.get(machine.architecture())):
        assert pe(*RUN, build({"Cmd": ["true"]}, architecture=architecture), check=True).stderr == ""


def test_environment_directory_and_user_of_the_image_hold(pe: Pe, build: Build) -> None:
    config = {
        "Env": ["COLOUR=green", "PATH=/usr/bin:/bin"],
        "WorkingDir": "/work",
        "User": "nobody",
        "Cmd": ["sh", "-c", "echo $COLOUR $PWD $(id -un)"],
    }
    image = build(config)
    assert pe(*RUN, image, check=True).stdout == "green /work nobody\n"
    assert pe(*RUN, "-e", "COLOUR=red", "-w", "/tmp", "-u", "0", image, check=True).stdout == "red /tmp root\n"


def test_volumes_of_the_image_are_anonymous_ones_filled_from_it(pe: Pe, build: Build) -> None:
    content = layer(
        ("data", b"", {"type": tarfile.DIRTYPE, "mode": 0o750, "uid": 7}), ("data/file", b"of the image\n", {})
    )
    image = build(
        {
            "Volumes": {"/data": {}},
            "Cmd": ["sh", "-c", "cat /data/file; stat -c %a:%u /data; grep -c ' /data ' /proc/mounts"],
        },
        content,
    )
    assert pe(*RUN, image, check=True).stdout == "of the image\n750:7\n1\n"
    assert pe("volume", "ls", "-q", check=True).stdout == ""


def test_the_stop_signal_of_the_image_is_used(pe: Pe, build: Build, start: Start) -> None:
    script = "trap 'exit 42' USR2; echo up; while :; do sleep 0.05; done"
    name = start(*NONE, build({"StopSignal": "SIGUSR2", "Cmd": ["sh", "-c", script]}))
    eventually(lambda: pe("logs", name).stdout == "up\n")
    pe("stop", name, check=True)
    assert pe("wait", name, check=True).stdout == "42\n"
    pe("rm", name, check=True)


def test_labels_of_image_and_caller_are_joined(pe: Pe, build: Build, start: Start) -> None:
    name = start(
        *NONE, "-l", "mine=1", "-l", "both=caller", build({"Labels": {"both": "image", "theirs": "2"}}), "true"
    )
    labels = json.loads(pe("inspect", name, check=True).stdout)[0]["Config"]["Labels"]
    assert labels == {"both": "caller", "mine": "1", "theirs": "2"}
    pe("wait", name)
    pe("rm", name, check=True)


def test_exposed_ports_are_published_with_capital_p(pe: Pe, build: Build, start: Start) -> None:
    name = start("-P", build({"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "9000-9001": {}}}), "sleep", "1000")
    lines = pe("port", name, check=True).stdout.splitlines()
    assert sorted(line.split(" -> ")[0] for line in lines) == ["53/udp", "80/tcp", "9000/tcp", "9001/tcp"]
    pe("rm", "-f", name, check=True)


@pytest.mark.parametrize("storage", ["overlay", "fuse_union"])
def test_whiteouts_and_opaque_directories_hide_what_is_below(pe: Pe, build: Build, storage: str) -> None:
    lower = layer(
        ("d", b"", {"type": tarfile.DIRTYPE, "mode": 0o755}),
        ("d/old", b"old", {}),
        ("o", b"", {"type": tarfile.DIRTYPE, "mode": 0o755}),
        ("o/old", b"old", {}),
    )
    upper = layer(("d/.wh.old", b"", {}), ("d/new", b"new", {}), ("o/.wh..wh..opq", b"", {}), ("o/new", b"new", {}))
    done = pe(*RUN, "--storage", storage, build({}, lower, upper), "ls", "-A", "/d", "/o", check=True)
    assert done.stdout == "/d:\nnew\n\n/o:\nnew\n"


@pytest.mark.parametrize("storage", ["overlay", "fuse_union"])
def test_an_image_of_a_hundred_and_twenty_layers_runs(pe: Pe, build: Build, storage: str) -> None:
    layers = [
        layer((f"layer/{number}", str(number).encode(), {}), ("top", str(number).encode(), {})) for number in range(119)
    ]
    done = pe(
        *RUN,
        "--storage",
        storage,
        build({}, *layers),
        "sh",
        "-c",
        "cat /top; ls /layer | wc -l",
        check=True,
        timeout=PATIENCE_S,
    )
    assert done.stdout == "118119\n"


def test_links_of_the_image_lead_inside(pe: Pe, build: Build) -> None:
    """An image whose /etc is a link, or whose /dev is (CVE-2026-41579), must not lead anything to the host."""
    trap = layer(("outside", b"", {"type": tarfile.SYMTYPE, "linkname": "../../../../../../etc/hostname"}))
    before = Path("/etc/hostname").read_text() if Path("/etc/hostname").exists() else None
    pe(*RUN, build({}, trap), "sh", "-c", "echo overwritten > /outside", check=False)
    assert (Path("/etc/hostname").read_text() if Path("/etc/hostname").exists() else None) == before


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
def test_cve_2026_41579_an_image_whose_directories_are_links_makes_nothing_outside(
    pe: Pe, build: Build, name: str
) -> None:
    victim = Path("/tmp/pe-link-victim")
    victim.mkdir()
    try:
        trap = layer((f".wh.{name}", b"", {}), (name, b"", {"type": tarfile.SYMTYPE, "linkname": str(victim)}))
        pe(*RUN, build({}, trap), "true")
        assert not list(victim.iterdir())
    finally:
        victim.rmdir()


def test_a_container_keeps_its_image_alive(pe: Pe, build: Build, start: Start) -> None:
    image = build({})
    name = start(*NONE, "--name", "keeper", image, "sleep", "1000")
    done = pe("rmi", image)
    assert done.returncode != 0
    assert "keeper" in done.stderr
    pe("rm", "-f", name, check=True)
    pe("rmi", image, check=True)


def test_a_program_by_path_becomes_an_image(pe: Pe) -> None:
    assert pe(*RUN, "host:/bin/echo", "/bin/echo", "just me", check=True).stdout == "just me\n"


def test_python_of_the_host_runs_with_its_library(pe: Pe) -> None:
    script = "import json, ssl, sqlite3, ctypes, hashlib; print(json.dumps({'sum': 1 + 1}))"
    assert pe(*RUN, "host:python", "python3", "-c", script, check=True).stdout == '{"sum": 2}\n'

"""What cannot be done is refused in one line that names the object, with a hint, the right code, and nothing left."""

from __future__ import annotations

import errno
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system.conftest import Leftovers, Start, eventually
from tests.system.images import archives
from tests.unit.images.tars import make_tar, member

NONE = ("--net", "none")
ENGINE = 125


def assert_refused(done: subprocess.CompletedProcess[str], code: int, *parts: str, hint: str = "") -> None:
    """The complaint is one line with these parts, then a hint with that part; nothing else was said."""
    lines = done.stderr.splitlines()
    assert done.returncode == code, done.stderr
    assert len(lines) in (1, 2), done.stderr
    assert lines[0].startswith("pe: "), done.stderr
    for part in parts:
        assert part in lines[0]
    if hint:
        assert lines[1].startswith("hint: "), done.stderr
        assert hint in lines[1]
    assert done.stdout == ""


# --- words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "parts", "hint"),
    [
        pytest.param(
            ("--storage", "overlai", "host:base"),
            ENGINE,
            ["storage driver overlai: not installed"],
            "did you mean overlay?",
            id="a storage driver that is not installed",
        ),
        pytest.param(
            ("--net", "bridges", "host:base"),
            ENGINE,
            ["network bridges: neither a network nor an installed driver"],
            "did you mean bridge?",
            id="a network that is not there",
        ),
        pytest.param(
            ("--cgroup", "v9", "host:base"), ENGINE, ["cgroup driver v9"], "installed: v1, v2", id="a cgroup driver"
        ),
        pytest.param(
            ("--storage-opt", "colour=red", "host:base"),
            ENGINE,
            ["no option colour"],
            "options: ",
            id="a driver option",
        ),
        pytest.param((*NONE, "-p", "80:80", "host:base"), ENGINE, ["--publish", "none"], "--network", id="no ports"),
        pytest.param(
            (*NONE, "--ip", "10.0.0.1", "host:base"), ENGINE, ["--ip", "none"], "--network", id="no addresses"
        ),
        pytest.param(
            ("--ip", "192.0.2.1", "host:base"), ENGINE, ["address 192.0.2.1", "bridge"], " to ", id="a foreign address"
        ),
        pytest.param(("--ip", "1.2.3", "host:base"), 2, ["1.2.3"], "", id="an address that is none"),
        pytest.param(("no-such-image:1",), ENGINE, ["image no-such-image:1"], "", id="an image that is not there"),
        pytest.param(("host:/no/such/program",), ENGINE, ["/no/such/program"], "", id="a program that is not there"),
        pytest.param(("-m", "64q", "host:base"), 2, ["--memory", "64q"], "", id="a memory limit that is none"),
        pytest.param(("--cpus", "many", "host:base"), 2, ["--cpus", "many"], "", id="a number that is none"),
        pytest.param(("-p", "1:2:3:4:5", "host:base"), 2, ["1:2:3:4:5"], "", id="a port that is none"),
        pytest.param(("-p", "70000:1", "host:base"), 2, ["70000"], "", id="a port beyond the last"),
        pytest.param(("--name", "../up", "host:base"), ENGINE, ["../up"], "", id="a name that is a path"),
        pytest.param(("-v", "/no/such:relative", "host:base"), 2, ["relative"], "", id="a target that is relative"),
        pytest.param(
            ("--mount", "type=bind,src=/no/such,dst=/x", "host:base"), ENGINE, ["/no/such"], "", id="a missing source"
        ),
        pytest.param(("--cap-add", "SYS_NONSENSE", "host:base"), ENGINE, ["SYS_NONSENSE"], "", id="a capability"),
        pytest.param(("--userns", "1:2", "host:base"), 2, ["1:2"], "", id="a user namespace"),
        pytest.param(("-u", "nobody-at-all", *NONE, "host:base"), ENGINE, ["nobody-at-all"], "", id="a user"),
        pytest.param(
            (*NONE, "host:base", "no-such-command"), 127, ["no-such-command"], "", id="a command that is not there"
        ),
        pytest.param((*NONE, "host:base", "/etc"), 126, ["/etc"], "", id="a command that is a directory"),
        pytest.param((*NONE, "host:base", "/etc/passwd"), 126, ["/etc/passwd"], "", id="a command that is a file"),
        pytest.param(("--network", "container:nobody", "host:base"), ENGINE, ["nobody"], "", id="a container to join"),
    ],
)
def test_a_run_that_cannot_be_is_refused(
    pe: Pe, words: tuple[str, ...], code: int, parts: list[str], hint: str
) -> None:
    assert_refused(pe("run", "--rm", *words), code, *parts, hint=hint)


# --- what is taken -------------------------------------------------------------------------------------------


def test_a_name_in_use_is_refused_and_its_owner_named(pe: Pe, start: Start) -> None:
    name = start(*NONE, "--name", "taken", "host:base", "sleep", "1000")
    assert_refused(pe("run", *NONE, "--name", "taken", "host:base", "true"), ENGINE, "taken", name, hint="rename")


def test_a_port_of_another_container_is_refused_and_the_other_goes_on(pe: Pe, start: Start) -> None:
    name = start("--name", "has-the-port", "-p", "7201:7", "host:base", "sleep", "1000")
    assert_refused(pe("run", "--rm", "-p", "7201:7", "host:base", "true"), ENGINE, "7201", "has-the-port")
    assert pe("exec", name, "echo", "well").stdout == "well\n"


def test_a_port_of_a_process_of_the_host_is_refused(pe: Pe) -> None:
    with socket.create_server(("0.0.0.0", 7202)):
        assert_refused(pe("run", "--rm", "-p", "7202:7", "host:base", "true"), ENGINE, "7202")


def test_an_address_in_use_is_refused(pe: Pe, start: Start) -> None:
    name = start("--net", "bridge", "host:base", "sleep", "1000")
    taken = pe("inspect", "--format", "{{.NetworkSettings.IPAddress}}", name, check=True).stdout.strip()
    assert_refused(pe("run", "--rm", "--ip", taken, "host:base", "true"), ENGINE, taken)


def test_a_running_container_and_its_image_are_not_removed(pe: Pe, start: Start) -> None:
    name = start(*NONE, "--name", "in-use", "host:base", "sleep", "1000")
    assert_refused(pe("rm", name), 1, "running", hint="stop")
    assert_refused(pe("rmi", "host:base"), 1, "host:base", "in-use")
    assert pe("exec", name, "echo", "well").stdout == "well\n"


# --- archives ------------------------------------------------------------------------------------------------


def bent(name: str, bend: Callable[[bytes], bytes]) -> bytes:
    """Return a docker-archive with one of its files changed."""
    parts = archives.docker_parts(archives.LOW, tags=["bent:1"])
    return archives.pack({each: bend(content) if each == name else content for each, content in parts.items()})


def hostile(name: str) -> bytes:
    """Return a docker-archive whose layer has one file of that name."""
    return archives.pack(archives.docker_parts(make_tar([member(name, content=b"owned")]), tags=["bent:1"]))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        pytest.param(b"", "archive", id="an empty file"),
        pytest.param(b"no tar at all" * 100, "archive", id="another file"),
        pytest.param(make_tar([member("x", content=b"y")]), "manifest", id="a tar that is no archive"),
        pytest.param(bent("manifest.json", lambda _: b"{"), "manifest", id="a manifest that is no JSON"),
        pytest.param(bent("0/layer.tar", lambda tar: tar[:-700]), "layer", id="a layer that ends too soon"),
        pytest.param(
            bent("0/layer.tar", lambda tar: tar.replace(b"low\n", b"LOW\n")), "digest", id="a layer with another digest"
        ),
        pytest.param(bent("", bytes)[:3000], "archive", id="an archive that ends too soon"),
    ],
)
def test_a_damaged_archive_is_refused_and_leaves_no_image(pe: Pe, tmp_path: Path, content: bytes, part: str) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(content)
    before = _stored(pe)
    done = pe("load", "-i", str(archive))
    assert_refused(done, ENGINE)
    assert part in done.stderr or str(archive) in done.stderr
    assert pe("image", "inspect", "bent:1").returncode != 0
    assert _stored(pe) == before


def test_an_archive_that_is_not_there_is_named(pe: Pe) -> None:
    assert_refused(pe("load", "-i", "/no/such/archive.tar"), ENGINE, "/no/such/archive.tar")


@pytest.mark.parametrize(
    "name", ["../../../../../../../../tmp/pe-escaped", "/tmp/pe-escaped", "a/../../../../../../../tmp/pe-escaped"]
)
def test_a_layer_that_climbs_out_writes_nothing_outside(pe: Pe, tmp_path: Path, name: str) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(hostile(name))
    escaped = Path("/tmp/pe-escaped")
    assert not escaped.exists()
    done = pe("load", "-i", str(archive))
    try:
        assert not escaped.exists()
        assert done.returncode in (0, ENGINE)
        if done.returncode == ENGINE:
            assert_refused(done, ENGINE, "pe-escaped")
    finally:
        pe("rmi", "-f", "bent:1")


def _stored(pe: Pe) -> set[str]:
    """Return every file of the image store that holds content."""
    places = [*(pe.root / "blobs").rglob("*"), *(pe.root / "layers").glob("*"), *(pe.root / "tmp").glob("*")]
    return {str(path) for path in places}


# --- the roots -----------------------------------------------------------------------------------------------


@pytest.fixture
def small(pe: Pe, tmp_path: Path) -> Iterator[Pe]:
    """An engine whose root is a small filesystem of its own."""
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=711", "tmpfs", root], check=True)
    small = Pe(root, tmp_path / "run")
    try:
        yield small
    finally:
        subprocess.run(["mount", "-o", "remount,rw,size=200m", root], check=True)
        small.clean()
        eventually(lambda: not Leftovers(small).now()["processes"])
        subprocess.run(["umount", "-l", root], check=True)


def inflate(path: Path) -> None:
    """Fill the rest of a filesystem."""
    with path.open("wb", buffering=0) as stream:
        try:
            while stream.write(b"\0" * (1 << 16)):
                pass
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                raise


def test_an_image_that_does_not_fit_is_refused_and_leaves_the_space_as_it_was(small: Pe) -> None:
    done = small("run", "--rm", *NONE, "host:base", "true")
    assert_refused(done, ENGINE, "no space left on device", hint="space")
    assert not list((small.root / "tmp").iterdir())
    assert not list((small.root / "layers").glob("[!.]*"))
    subprocess.run(["mount", "-o", "remount,size=200m", small.root], check=True)
    assert small("run", "--rm", *NONE, "host:base", "echo", "well").stdout == "well\n"


def test_a_full_filesystem_is_said_and_running_containers_go_on(small: Pe) -> None:
    subprocess.run(["mount", "-o", "remount,size=200m", small.root], check=True)
    name = small("run", "-d", *NONE, "host:base", "sleep", "1000", check=True).stdout.strip()
    balloon = small.root / "balloon"
    inflate(balloon)
    done = small("run", "--rm", *NONE, "host:base", "true")
    assert done.returncode in (0, ENGINE)
    if done.returncode:
        assert_refused(done, ENGINE, str(small.root), "full", hint="space")
    balloon.unlink()
    assert small("exec", name, "echo", "well").stdout == "well\n"
    assert small("ps", "-aq", "--no-trunc", check=True).stdout.split() == [name]


def test_a_read_only_root_is_named(small: Pe) -> None:
    subprocess.run(["mount", "-o", "remount,size=200m", small.root], check=True)
    small("ps", check=True)
    subprocess.run(["mount", "-o", "remount,ro", small.root], check=True)
    done = small("run", "--rm", *NONE, "host:base", "true")
    assert_refused(done, ENGINE, str(small.root), "read", hint="--root")


def test_a_root_that_is_a_file_is_named(pe: Pe, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.write_text("")
    assert_refused(Pe(root, tmp_path / "run")("ps"), ENGINE, str(root), hint="another root")

"""Images, layers, volumes, drivers and the system, as `pe` shows and changes them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.conftest import Pe
from tests.waiting import PATIENCE_S

PE = [sys.executable, "-m", "plugengine"]


def small_root() -> bytes:
    """Return the tar of a root filesystem with one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("etc/motd")
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"hello"))
    return out.getvalue()


def pe_bytes(pe: Pe, *args: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        pe.command(*args), env=pe.environ, input=data, capture_output=True, check=False, timeout=PATIENCE_S
    )


def test_a_root_filesystem_is_imported_tagged_shown_and_removed(pe: Pe, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(small_root())
    image = pe("import", "-c", 'CMD ["cat", "/etc/motd"]', str(tmp_path / "root.tar"), "small:one", check=True).stdout
    assert image.startswith("sha256:")
    assert pe_bytes(pe, "import", "-", "small:two", data=small_root()).stdout.startswith(b"sha256:")
    assert pe("tag", "small:one", "other").returncode == 0
    heading, *rows = pe("images", "small", check=True).stdout.strip().splitlines()
    assert heading.split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert sorted(row.split()[1] for row in rows) == ["one", "two"]
    assert image.removeprefix("sha256:")[:12] in pe("images", "-q", "other", check=True).stdout
    assert pe("images", "--format", "{{.Repository}}:{{.Tag}}", "oth*", check=True).stdout == "other:latest\n"
    assert json.loads(pe("image", "inspect", "other", check=True).stdout)[0]["Config"]["Cmd"] == ["cat", "/etc/motd"]
    changes = ("-c", "WORKDIR /x", "-c", "WORKDIR y", "-c", "EXPOSE 9000-9001", "-c", "ENV A=1", "-c", "ENV B=${A}2")
    pe("import", *changes, str(tmp_path / "root.tar"), "small:three", check=True)
    config = json.loads(pe("image", "inspect", "small:three", check=True).stdout)[0]["Config"]
    assert (config["WorkingDir"], config["Env"][1:]) == ("/x/y", ["A=1", "B=12"])
    assert config["ExposedPorts"] == {"9000/tcp": {}, "9001/tcp": {}}
    refused = pe("import", "-c", "RUN true", str(tmp_path / "root.tar"), "small:four")
    assert refused.returncode == 125
    assert refused.stderr.startswith("pe: change 'RUN true': not one of CMD, ")
    pe("rmi", "small:three", check=True)
    removed = pe("rmi", "small:one", "nothing", "small:two", "other")
    assert removed.returncode == 1
    assert "Untagged: small:one" in removed.stdout
    assert "Deleted: sha256:" in removed.stdout
    assert "image nothing" in removed.stderr
    assert "small" not in pe("images", check=True).stdout


def test_an_archive_is_loaded_from_a_file_and_from_a_pipe(pe: Pe, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(docker_archive(tmp_path, "loaded:1"))
    assert pe("load", "-i", str(archive), check=True).stdout == "Loaded image: loaded:1\n"
    assert pe_bytes(pe, "load", data=archive.read_bytes()).stdout == b"Loaded image: loaded:1\n"
    pe("rmi", "loaded:1", check=True)
    broken = pe_bytes(pe, "load", data=archive.read_bytes()[:700])
    assert broken.returncode == 125
    assert broken.stderr.startswith(b"pe: ")
    assert b"Traceback" not in broken.stderr


def docker_archive(work: Path, name: str) -> bytes:
    """Return what `docker save` writes for an image of one layer."""
    import hashlib

    layer = small_root()
    config = json.dumps(
        {
            "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for file, data in (("config.json", config), ("layer.tar", layer), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(file)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def test_a_layer_goes_through_a_directory_unchanged(pe: Pe, tmp_path: Path) -> None:
    applied = pe_bytes(pe, "layer", "apply", str(tmp_path / "upper"), data=small_root())
    assert applied.returncode == 0, applied.stderr
    assert (tmp_path / "upper/etc/motd").read_text() == "hello"
    packed = pe_bytes(pe, "layer", "diff", str(tmp_path / "upper"))
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
        assert {entry.name.rstrip("/") for entry in tar} >= {"etc", "etc/motd"}
    again = pe_bytes(pe, "layer", "apply", str(tmp_path / "again"), data=packed.stdout)
    assert again.stdout.split()[0] == packed.stderr.split()[0]
    hostile = pe_bytes(pe, "layer", "apply", str(tmp_path / "bad"), data=small_root()[:600])
    assert hostile.returncode == 125
    assert not (tmp_path / "bad").exists()
    assert pe("layer", "diff", str(tmp_path / "none")).returncode == 2


def test_volumes_are_made_listed_shown_and_removed(pe: Pe) -> None:
    assert pe("volume", "create", "--label", "team=web", "data", check=True).stdout == "data\n"
    anonymous = pe("volume", "create", check=True).stdout.strip()
    try:
        assert pe("volume", "ls", "-q", check=True).stdout.split() == sorted(["data", anonymous])
        assert pe("volume", "ls", "-f", "label=team", "--format", "{{.Name}}", check=True).stdout == "data\n"
        shown = json.loads(pe("volume", "inspect", "data", check=True).stdout)[0]
        assert shown["Labels"] == {"team": "web"}
        assert os.path.isdir(shown["Mountpoint"])
        assert json.loads(pe("inspect", "data", check=True).stdout)[0]["Name"] == "data"
    finally:
        done = pe("volume", "rm", "data", "nothing", anonymous)
    assert done.stdout.split() == ["data", anonymous]
    assert done.returncode == 1
    assert "volume nothing" in done.stderr
    assert pe("volume", "rm", "-f", "nothing").returncode == 0


def test_drivers_tell_the_truth_about_themselves(pe: Pe) -> None:
    rows = [json.loads(line) for line in pe("drivers", "--format", "json", check=True).stdout.splitlines()]
    names = {(row["Kind"], row["Name"]) for row in rows}
    assert {
        ("storage", "overlay"),
        ("network", "bridge"),
        ("cgroup", "v1"),
        ("namespace", "linux"),
        ("runtime", "native"),
    } <= names
    for kind in ("storage", "network", "cgroup", "namespace", "runtime"):
        chosen = [row for row in rows if row["Kind"] == kind and row["Default"]]
        assert len(chosen) == 1
        assert chosen[0]["Supported"] == "yes"
    assert all(row["Reasons"] for row in rows if row["Supported"] == "no")
    heading = pe("drivers", check=True).stdout.splitlines()[0]
    assert heading.split()[:4] == ["KIND", "NAME", "DEFAULT", "SUPPORTED"]
    assert "storage overlay:" in pe("drivers", "--options", check=True).stdout


def test_info_counts_and_names(pe: Pe) -> None:
    facts = json.loads(pe("info", "--format", "json", check=True).stdout)
    assert facts["Root"] == str(pe.root)
    assert facts["KernelVersion"] == os.uname().release
    assert set(facts["Drivers"]) == {"storage", "network", "cgroup", "namespace", "runtime"}
    assert f"Root: {pe.root}" in pe("system", "info", check=True).stdout
    assert pe("info", "-f", "{{.Drivers.network}}", check=True).stdout.strip() == facts["Drivers"]["network"]


def test_roots_are_named_before_the_command_only(tmp_path: Path) -> None:
    words = ["--root", str(tmp_path / "root"), "--run-root", str(tmp_path / "run")]
    done = subprocess.run(
        [*PE, *words, "info", "-f", "{{.Root}} {{.RunRoot}}"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{tmp_path}/root {tmp_path}/run\n"
    done = subprocess.run([*PE, "info", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2


def test_nothing_to_check_is_0_and_a_reset_asks_first(tmp_path: Path) -> None:
    pe = Pe(tmp_path / "root", tmp_path / "run")
    done = pe("system", "check")
    assert (done.returncode, done.stdout) == (0, "")
    pe("volume", "create", "kept", check=True)
    done = pe("system", "reset")
    assert done.returncode == 2
    assert "pe system reset --force" in done.stderr
    assert pe("volume", "ls", "-q", check=True).stdout == "kept\n"
    pe("system", "reset", "--force", check=True)
    assert pe("volume", "ls", "-q", check=True).stdout == ""


AS_NOBODY = """
import importlib, os, pkgutil
import plugengine
for each in pkgutil.walk_packages(plugengine.__path__, "plugengine."):
    if each.name.startswith(("plugengine.cli", "plugengine.engine")):
        importlib.import_module(each.name)
from plugengine.cli import main
os.setresuid(65534, 65534, 65534)
raise SystemExit(main(["ps"]))
"""


def test_who_is_not_root_is_told() -> None:
    # Imported first: the interpreter and the checkout of a test machine may lie in root's home.
    done = subprocess.run([sys.executable, "-c", AS_NOBODY], capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert done.stderr == "pe: engine: needs root\nhint: run it as root, for example with sudo\n"

"""Images written by other people's tools: buildah and skopeo archives, and a Debian root by mmdebstrap."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need, need_root, need_tool
from tests.waiting import PATIENCE_S

PROJECT = Path(__file__).parents[2]
APP_ID = 1234
# ldd(1) prints "libc.so.6 => /lib/… (0x…)" and "/lib64/ld-linux-x86-64.so.2 (0x…)".
LIBRARY = re.compile(r"(/\S+) \(0x[0-9a-f]+\)")
PROGRAMS = ("sh", "cat", "ls", "id", "stat", "true")


def run(*argv: str, **kwargs: Any) -> str:
    """Run a tool that must succeed; return what it printed."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False, **kwargs)
    assert done.returncode == 0, f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout).strip()


@dataclass(frozen=True)
class Buildah:
    """buildah with a store of its own; the vfs driver works on every filesystem."""

    base: Path

    def __call__(self, *args: str) -> str:
        store = ("--root", f"{self.base}/root", "--runroot", f"{self.base}/run", "--storage-driver", "vfs")
        return run("buildah", *store, *args, env={**os.environ, "TMPDIR": str(self.base)})

    def mount(self, container: str) -> Path:
        """Return the directory where a working container can be changed."""
        return Path(self("mount", container))

    def commit(self, container: str, name: str) -> None:
        """Write the working container as an image whose newest layer holds its changes."""
        self("commit", "--quiet", "--signature-policy", str(self.policy), container, name)

    def push(self, name: str, destination: str, *options: str) -> None:
        """Write an image to an archive."""
        self("push", "--quiet", "--signature-policy", str(self.policy), *options, name, destination)

    @property
    def policy(self) -> Path:
        """Return a signature policy, which a package of its own brings elsewhere."""
        path = self.base / "policy.json"
        path.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        return path


def write_first_layer(root: Path) -> None:
    """Fill a root filesystem with a shell, a user, and files for the second layer to change."""
    for name in ("bin", "etc", "data/replaced", "data/kept"):
        (root / name).mkdir(parents=True)
    for name in PROGRAMS:
        program = need_tool(name)
        shutil.copy(program, root / "bin" / name)
        for library in LIBRARY.findall(run("ldd", program)):
            target = root / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
    (root / "etc/passwd").write_text(f"root:x:0:0::/root:/bin/sh\napp:x:{APP_ID}:{APP_ID}::/data:/bin/sh\n")
    (root / "etc/group").write_text(f"root:x:0:\napp:x:{APP_ID}:\n")
    data = root / "data"
    for name in ("gone", "replaced/below", "kept/below", "first"):
        (data / name).write_text(f"{name}\n")
    (data / "second").hardlink_to(data / "first")
    (data / "link").symlink_to("first")
    (data / "first").chmod(0o4750)
    os.chown(data / "kept", APP_ID, APP_ID)


def write_second_layer(root: Path) -> None:
    """Delete a file, replace a directory by a new one of the same name, add a file."""
    data = root / "data"
    (data / "gone").unlink()
    shutil.rmtree(data / "replaced")
    (data / "replaced").mkdir()
    (data / "replaced/fresh").write_text("fresh\n")
    (data / "greeting").write_text("hello from the second layer\n")


@pytest.fixture(scope="session")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Buildah:
    """buildah, holding the image `app:v1` of two layers."""
    need_root()
    need_tool("buildah")
    tool = Buildah(tmp_path_factory.mktemp("buildah"))
    first = tool("from", "scratch")
    write_first_layer(tool.mount(first))
    tool("config", "--env", "COLOUR=green", "--workingdir", "/data", "--user", "app", first)
    tool("config", "--cmd", '["cat", "greeting"]', "--label", "org.example.kind=client", first)
    tool("config", "--stop-signal", "SIGUSR1", "--port", "8080/tcp", first)
    tool.commit(first, "base:v1")
    second = tool("from", "--pull-never", "base:v1")
    write_second_layer(tool.mount(second))
    tool.commit(second, "app:v1")
    for container in (first, second):
        tool("rm", container)
    return tool


@dataclass(frozen=True)
class Archive:
    """One archive of `app:v1` under a name of its own."""

    path: Path
    name: str

    def media_types(self) -> set[str]:
        """Return the media types of the layers, of an OCI archive."""
        raw = run("skopeo", "--insecure-policy", "inspect", "--raw", f"oci-archive:{self.path}")
        return {layer["mediaType"] for layer in json.loads(raw)["layers"]}


@pytest.fixture(scope="session")
def oci_gzip(buildah: Buildah) -> Archive:
    """buildah's usual OCI archive: layers compressed with gzip."""
    return pushed(buildah, "oci-archive", "oci-gzip", "--compression-format", "gzip")


@pytest.fixture(scope="session")
def oci_zstd(buildah: Buildah) -> Archive:
    """An OCI archive by buildah, its layers compressed with zstd."""
    return pushed(buildah, "oci-archive", "oci-zstd", "--compression-format", "zstd")


@pytest.fixture(scope="session")
def docker_plain(buildah: Buildah) -> Archive:
    """A docker-archive by buildah, as `docker save` writes it."""
    return pushed(buildah, "docker-archive", "docker-plain")


def pushed(buildah: Buildah, transport: str, kind: str, *options: str) -> Archive:
    """Have buildah write `app:v1` to an archive."""
    archive = Archive(buildah.base / f"{kind}.tar", f"{kind}:v1")
    buildah.push("app:v1", f"{transport}:{archive.path}:{archive.name}", *options)
    return archive


@pytest.fixture(scope="session")
def docker_by_skopeo(oci_gzip: Archive) -> Archive:
    """A docker-archive by skopeo, converted from an OCI archive."""
    return converted(oci_gzip, "docker-archive", "docker-by-skopeo")


@pytest.fixture(scope="session")
def oci_by_skopeo(docker_plain: Archive) -> Archive:
    """An OCI archive with zstd layers by skopeo, converted from a docker-archive."""
    return converted(docker_plain, "oci-archive", "oci-by-skopeo", "--dest-compress", "--dest-compress-format", "zstd")


def converted(archive: Archive, transport: str, kind: str, *options: str) -> Archive:
    """Have skopeo write an archive as one of the other kind."""
    need_tool("skopeo")
    result = Archive(archive.path.with_name(f"{kind}.tar"), f"{kind}:v1")
    origin = "oci-archive" if transport == "docker-archive" else "docker-archive"
    destination = f"{transport}:{result.path}:{result.name}"
    source = f"{origin}:{archive.path}"
    run("skopeo", "--insecure-policy", "copy", "--quiet", *options, source, destination)
    return result


@pytest.fixture(scope="session")
def oci_index_first(oci_gzip: Archive) -> Archive:
    """An OCI layout packed with tar, its index before the blobs, all of it compressed with gzip."""
    layout = oci_gzip.path.with_name("layout")
    with tarfile.open(oci_gzip.path) as archive:
        archive.extractall(layout, filter="data")
    index = json.loads((layout / "index.json").read_text())
    index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = "oci-index-first:v1"
    (layout / "index.json").write_text(json.dumps(index))
    target = layout.with_suffix(".tar.gz")
    run("tar", "-C", str(layout), "-czf", str(target), "./index.json", "./oci-layout", "./blobs")
    return Archive(target, "oci-index-first:v1")


@pytest.fixture(scope="session")
def docker_gzip(buildah: Buildah) -> Archive:
    """A docker-archive compressed as a whole, as `docker save | gzip` leaves it."""
    return packed(pushed(buildah, "docker-archive", "docker-gzip"), "gzip", ".tar.gz")


@pytest.fixture(scope="session")
def docker_zstd(buildah: Buildah) -> Archive:
    """A docker-archive compressed as a whole with zstd."""
    return packed(pushed(buildah, "docker-archive", "docker-zstd"), "zstd", ".tar.zst")


def packed(archive: Archive, tool: str, suffix: str) -> Archive:
    """Compress a whole archive."""
    need_tool(tool)
    target = archive.path.with_suffix(suffix)
    with archive.path.open("rb") as source, target.open("wb") as stream:
        subprocess.run([tool, "-c"], stdin=source, stdout=stream, check=True, timeout=PATIENCE_S)
    return Archive(target, archive.name)


@pytest.fixture(scope="session")
def debian_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian root as mmdebstrap packs it, device nodes included."""
    need_root()
    made = os.environ.get("PE_DEBIAN_ROOT")  # set by `make test`: these tests run where there is no network
    path = Path(made) if made else tmp_path_factory.mktemp("debian") / "root.tar"
    if not path.is_file():
        done = subprocess.run(
            [str(PROJECT / ".ci/debian-root"), str(path)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        need(None if path.is_file() else f"needs a Debian root: {done.stderr.strip() or 'none was made'}")
    return path

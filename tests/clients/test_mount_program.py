"""podman and buildah build, run, diff and commit images on pe-fuse-union as their mount program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from plugengine.kernel.mount import MNT_DETACH, umount2
from plugengine.kernel.mountinfo import read_mountinfo
from tests.clients.conftest import LIBRARY, run, write_first_layer
from tests.conftest import need, need_root, need_tool

PROGRAM = os.path.join(os.path.dirname(sys.executable), "pe-fuse-union")
pytestmark = pytest.mark.slow

BASE = "localhost/base"
BUILT = "localhost/built"
MORE_PROGRAMS = ("mv", "rm", "mkdir", "ln", "chmod", "chown", "mkfifo")
BUILDFILE = f"""
FROM {BASE}
RUN echo one >/one && mkdir /made && echo inside >/made/x && chown 5:7 /made/x && chmod 4755 /made/x
RUN rm -r /data/gone /data/replaced && mkdir /data/replaced && echo fresh >/data/replaced/fresh
RUN mv /made /moved && mv /data/kept /data/carried && rm /one && ln /moved/x /moved/y && mkfifo /moved/fifo
CMD ["ls", "-A", "/", "/data", "/data/replaced", "/data/carried", "/moved"]
"""
SHOWN = """\
/:
bin
data
etc
lib
lib64
moved

/data:
carried
first
link
replaced
second

/data/carried:
below

/data/replaced:
fresh

/moved:
fifo
x
y"""
# Mount points that runc makes in the root.
MADE_BY_RUNTIME = {"dev", "proc", "sys", "run", "tmp", "var"}


@dataclass(frozen=True)
class Store:
    """A store of its own for both tools, on the mount program."""

    base: Path

    @property
    def cgroup(self) -> str:
        """Return the control group of the containers, below the root of each hierarchy."""
        return f"/plugengine-{self.base.name}"

    @property
    def options(self) -> tuple[str, ...]:
        """Return where the store is, and how it mounts."""
        roots = ("--root", f"{self.base}/root", "--runroot", f"{self.base}/run")
        return (*roots, "--storage-driver", "overlay", "--storage-opt", f"overlay.mount_program={PROGRAM}")

    def podman(self, *words: str) -> str:
        """Run podman with cgroupfs, as there is no systemd here, and runc, as crun refuses hybrid cgroup hosts."""
        base = self.base
        options = ("--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc")
        places = ("--tmpdir", f"{base}/tmp", "--network-config-dir", f"{base}/networks")
        return run("podman", *options, *places, *self.options, *words, env=self.environ)

    def buildah(self, *words: str) -> str:
        """Run buildah on the same store."""
        return run("buildah", *self.options, *words, env=self.environ)

    def start(self, *words: str) -> str:
        """Run a container by podman, with limits that a process without CAP_SYS_RESOURCE can set."""
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")
        return self.podman("run", "--network", "none", "--cgroup-parent", self.cgroup, *limits, *words)

    @property
    def environ(self) -> dict[str, str]:
        """Return an environment in which nothing of the caller plays a part."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.base), "TMPDIR": str(self.base)}

    def mounts(self) -> list[str]:
        """Return the mounts of the program in this store."""
        return [each.mount_point for each in read_mountinfo() if each.mount_point.startswith(f"{self.base}/")]

    def close(self) -> None:
        """Unmount and remove everything; the store keeps mounts of its own."""
        for mount_point in reversed(self.mounts()):
            umount2(mount_point, MNT_DETACH)
        shutil.rmtree(self.base)
        for top, directories, _ in os.walk("/sys/fs/cgroup"):
            for name in directories:
                if f"/{name}" == self.cgroup:
                    subprocess.run(["find", f"{top}/{name}", "-depth", "-type", "d", "-delete"], check=False)
            if top.count("/") > "/sys/fs/cgroup".count("/"):
                directories.clear()


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    need_root()
    need(None if os.access(PROGRAM, os.X_OK) else f"needs {PROGRAM}, which installing the package makes")
    need(None if os.path.exists("/dev/fuse") else "needs /dev/fuse")
    for tool in ("podman", "buildah", "runc"):
        need_tool(tool)
    found = Store(Path(tempfile.mkdtemp(prefix="pe-mount-program-", dir="/var/tmp")))
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def base(store: Store) -> str:
    """An image of a shell and a few files."""
    root = store.base / "rootfs"
    root.mkdir()
    write_first_layer(root)
    for name in MORE_PROGRAMS:
        program = need_tool(name)
        shutil.copy(program, root / "bin" / name)
        for library in LIBRARY.findall(run("ldd", program)):
            shutil.copy(library, root / library.lstrip("/"))
    archive = store.base / "root.tar"
    run("tar", "-C", str(root), "-cf", str(archive), ".")
    store.podman("import", str(archive), BASE)
    context = store.base / "context"
    context.mkdir()
    (context / "Containerfile").write_text(BUILDFILE)
    return BASE


def build(store: Store, tool: str, name: str) -> None:
    """Build the image, each instruction a layer; processes run in a changed root, which needs no network namespace."""
    words = ("build", "--isolation", "chroot", "--network", "host", "--layers", "--no-cache", "--tag", name)
    getattr(store, tool)(*words, f"{store.base}/context")


def shown(text: str) -> str:
    """Return a listing without what a runtime makes."""
    return "\n".join(line for line in text.splitlines() if line not in MADE_BY_RUNTIME)


@pytest.fixture(scope="module")
def built(store: Store, base: str) -> str:
    """The image that podman builds."""
    build(store, "podman", BUILT)
    return BUILT


def test_podman_runs_what_it_built(store: Store, built: str) -> None:
    assert shown(store.start("--rm", built)) == SHOWN
    seen = store.start("--rm", built, "stat", "-c", "%a %u %g %h %F", "/moved/x", "/moved/fifo")
    assert seen.splitlines() == ["4755 5 7 2 regular file", "644 0 0 1 fifo"]


def test_buildah_builds_the_same(store: Store, base: str) -> None:
    build(store, "buildah", "localhost/by-buildah")
    assert shown(store.start("--rm", "localhost/by-buildah")) == SHOWN


def test_the_root_of_a_container_is_our_mount(store: Store, built: str) -> None:
    first = store.start("--rm", built, "cat", "/proc/mounts").splitlines()[0]
    assert first.startswith("pe-fuse-union / fuse.pe-fuse-union rw,")


def test_diff_and_commit_know_what_a_container_changed(store: Store, built: str) -> None:
    store.start("--name", "changed", built, "sh", "-c", "echo 3 >/three; rm -r /moved; echo more >>/data/first")
    changes = set(store.podman("diff", "changed").splitlines())
    assert {"A /three", "D /moved", "C /data/first"} <= changes
    assert not [line for line in changes if line[2:].startswith(("/bin", "/lib"))]
    store.podman("commit", "--quiet", "changed", "localhost/committed")
    store.podman("rm", "changed")
    listed = store.start("--rm", "localhost/committed", "sh", "-c", "ls -A /; cat /data/first /data/second")
    assert shown(listed).splitlines() == ["bin", "data", "etc", "lib", "lib64", "three", "first", "more", "first"]


def test_a_container_keeps_its_changes_when_it_is_started_again(store: Store, built: str) -> None:
    store.start("--name", "again", built, "sh", "-c", "echo x >>/data/count; cat /data/count")
    assert store.podman("start", "--attach", "again").splitlines() == ["x", "x"]
    store.podman("rm", "again")


def test_no_mount_is_left_after_the_containers(store: Store, built: str) -> None:
    store.start("--rm", built, "true")
    assert [each for each in store.mounts() if each.endswith("/merged")] == []

"""Real work in a container on fuse_union: packages installed, built, cloned, copied, and nothing of it damaged."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from tests.conftest import Pe, need, need_root
from tests.system.packages import Package, build_wheel

PROJECT = Path(__file__).parents[2]
IMAGE = "debian-root:work"
TIMEOUT_S = 170
WHEELS = 10
# The root lacks apt: dpkg brings it, and apt the rest; both run the packages' maintainer scripts.
BOOTSTRAP = """
export DEBIAN_FRONTEND=noninteractive
dpkg --install --skip-same-version --refuse-downgrade /in/packages/apt/*.deb >/log 2>&1 || { tail -20 /log; exit 1; }
"""
INSTALL = """
export DEBIAN_FRONTEND=noninteractive
apt-get -qq -y --no-install-recommends install /in/packages/tools/*.deb >/log 2>&1 || { tail -20 /log; exit 1; }
"""
WRITER = """
import sqlite3, sys, time
name, seconds = sys.argv[1], float(sys.argv[2])
database = sqlite3.connect("/work/db", timeout=30, isolation_level=None)
end, count = time.monotonic() + seconds, 0
while time.monotonic() < end:
    database.execute("BEGIN IMMEDIATE")
    database.execute("INSERT INTO t (who, v) VALUES (?, randomblob(?))", (name, 100 + count % 9000))
    database.execute("UPDATE t SET v = randomblob(length(v)) WHERE rowid % 17 = ?", (count % 17,))
    if count % 5 == 4:
        database.execute("DELETE FROM t WHERE rowid IN (SELECT rowid FROM t WHERE who = ? LIMIT 2)", (name,))
    database.execute("UPDATE done SET n = n + 1 WHERE who = ?", (name,))
    database.execute("COMMIT")
    count += 1
print(count)
"""

# The first test waits for all of the installation.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Box(Struct, frozen=True, kw_only=True):
    """A running container on fuse_union, with real packages installed in it."""

    pe: Pe
    name: str
    outside: Path  # shown as /out: a plain directory of the host

    def __call__(self, script: str, *args: str) -> str:
        """Run a script in the container; return what it printed."""
        argv = ("exec", self.name, "sh", "-euc", script, "sh", *args)
        return self.pe(*argv, check=True, timeout=TIMEOUT_S).stdout


def packages_directory() -> Path:
    """Return where the packages are, fetched before by `make test` or else now."""
    made = os.environ.get("PE_DEBIAN_PACKAGES")  # these tests run where there is no network
    path = Path(made) if made else PROJECT / "build/debian-packages"
    if not (path / "complete").exists():
        line = [str(PROJECT / ".ci/debian-packages"), str(path)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        need(None if (path / "complete").exists() else f"needs Debian packages: {done.stderr.strip()[-200:]}")
    return path


def debian_root(directory: Path) -> Path:
    """Return the tar of a Debian root, made before by `make test` or else now."""
    made = os.environ.get("PE_DEBIAN_ROOT")
    path = Path(made) if made else directory / "root.tar"
    if not path.exists():
        line = [str(PROJECT / ".ci/debian-root"), str(path)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        need(None if path.is_file() else f"needs a Debian root: {done.stderr.strip() or 'none was made'}")
    return path


@pytest.fixture(scope="module")
def box(pe_env: Pe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A container of a small Debian, a tool chain installed into it by dpkg and apt-get."""
    need_root()
    base = tmp_path_factory.mktemp("work")
    root, packages = debian_root(base), packages_directory()
    for name in ("wheels", "out"):
        (base / name).mkdir()
    for number in range(WHEELS):
        name = f"pe-sample-{number}"
        build_wheel(Package(name=name, source=f"VALUE = {number}\n", points={}), base / "wheels")
    pe_env("import", str(root), IMAGE, check=True, timeout=TIMEOUT_S)
    mounts = (
        f"{packages}:/in/packages:ro",
        f"{base}/wheels:/in/wheels:ro",
        f"{root}:/in/root.tar:ro",
        f"{base}/out:/out",
    )
    volumes = [word for mount in mounts for word in ("-v", mount)]
    command = ("sleep", "1000000")
    line = ("run", "-d", "--init", "--net", "none", "--storage", "fuse_union", *volumes, IMAGE, *command)
    found = Box(pe=pe_env, name=pe_env(*line, check=True).stdout.strip(), outside=base / "out")
    try:
        found(BOOTSTRAP)
        found(INSTALL)
        found("mkdir /work")
        yield found
    finally:
        pe_env("rm", "-f", "-v", found.name)


def test_dpkg_and_apt_install_and_remove_packages_with_their_scripts(box: Box) -> None:
    assert box("dpkg --audit; dpkg --verify; apt-get check -qq") == ""
    assert box("readlink -e /etc/alternatives/pager >/dev/null; cc --version | head -1; git --version").count("\n") == 2
    assert int(box("ls /etc/ssl/certs | wc -l")) > 100  # by the script of ca-certificates
    said = box(
        "DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge tzdata >/dev/null 2>&1; ls -d /usr/share/zoneinfo || true"
    )
    assert said == ""
    assert box("dpkg --audit; ls /var/lib/dpkg/info | grep -c '^tzdata' || true") == "0\n"


def test_pip_installs_lists_and_removes_wheels(box: Box) -> None:
    names = " ".join(f"pe-sample-{number}" for number in range(WHEELS))
    quiet = "-q --no-index --root-user-action=ignore --break-system-packages"
    imports = "; ".join(f"import pe_sample_{number} as m; assert m.VALUE == {number}" for number in range(WHEELS))
    box(f"pip3 install {quiet} /in/wheels/*.whl; pip3 check; cd /work; python3 -c '{imports}'")
    box(f"pip3 install {quiet} --force-reinstall --no-deps /in/wheels/*.whl; cd /work; python3 -c '{imports}'")
    box(f"pip3 uninstall -q -y --root-user-action=ignore --break-system-packages {names}")
    assert box("pip3 list 2>/dev/null | grep -c pe-sample || true") == "0\n"


def test_git_clones_checks_out_and_collects_garbage(box: Box) -> None:
    box(
        """
        export HOME=/work GIT_CONFIG_COUNT=2
        export GIT_CONFIG_KEY_0=user.name GIT_CONFIG_VALUE_0=n GIT_CONFIG_KEY_1=user.email GIT_CONFIG_VALUE_1=n@n
        git init -q -b main /work/first; cd /work/first
        cp -r /usr/include/. . ; git add -A; git commit -q -m one
        git checkout -q -b other; git mv linux moved; rm -r asm-generic; git add -A; git commit -q -m two
        for n in 1 2 3 4 5; do echo $n >>stdio.h; git commit -q -a -m $n; done
        git clone -q /work/first /work/second; cd /work/second
        git checkout -q -b main origin/main; test -d linux; test ! -e moved
        git checkout -q other; test -d moved; test ! -e asm-generic
        git merge -q origin/main; git gc -q --prune=now; git repack -q -a -d -f
        for place in first second; do cd /work/$place; git fsck --full --strict; git status --porcelain; done
        """
    )
    assert box("cd /work/second && git status --porcelain | wc -l && git log --oneline | wc -l") == "0\n7\n"
    assert box("diff -r --exclude=.git /work/first /work/second; rm -r /work/first /work/second; ls /work") == ""


def test_a_database_with_a_write_ahead_log_is_whole_after_two_writers(box: Box) -> None:
    setup = "PRAGMA journal_mode = wal; CREATE TABLE t (who, v); CREATE TABLE done (who PRIMARY KEY, n);"
    box(f"sqlite3 /work/db \"{setup} INSERT INTO done VALUES ('a', 0), ('b', 0)\"")
    counts = box(
        'python3 -c "$1" a 10 >/work/a & python3 -c "$1" b 10 >/work/b; wait; cat /work/a /work/b', WRITER
    ).split()
    assert box("sqlite3 /work/db 'PRAGMA integrity_check; SELECT n FROM done ORDER BY who'").split() == ["ok", *counts]
    assert min(map(int, counts)) > 10


def test_a_large_tree_is_unpacked_compared_and_removed(box: Box) -> None:
    exclude = "--exclude=./dev/*"  # device nodes a container may not make
    box(f"mkdir /work/tree; tar -C /work/tree {exclude} -xpf /in/root.tar")
    # Tar leaves the times of directories to the end, and compares owners, modes, times, sizes and contents.
    assert box(f"cd /work/tree; tar {exclude} -df /in/root.tar") == ""
    assert box("rm -r /work/tree; test ! -e /work/tree; echo gone") == "gone\n"


def test_a_debian_source_is_built_and_passes_its_own_tests(box: Box) -> None:
    said = box(
        """
        python3 -m tarfile -e /in/packages/source/*.orig.tar.* /work/source; cd /work/source/*
        ./configure >/work/log 2>&1; make -j2 >>/work/log 2>&1; make test; make install >>/work/log 2>&1
        """
    )
    assert "zlib test OK" in said
    assert box("readelf -d /usr/local/lib/libz.so | grep -c SONAME; ldconfig; rm -r /work/source /work/log") == "1\n"


def test_rsync_there_and_back_finds_nothing_different(box: Box) -> None:
    box(
        """
        mkdir /work/tree; cp -a /etc /usr/share/perl /usr/include /work/tree; cd /work/tree
        ln include/stdio.h hard; ln hard harder; ln -s /nowhere soft; mkfifo fifo
        chmod 6711 hard; chown -h 12:34 soft fifo; truncate -s 5M sparse; touch -d @1.123456789 old
        python3 -c 'import os; [os.setxattr(p, "user.mark", p.encode()) for p in ("hard", "include")]'
        """
    )
    for source, target in (("/work/tree", "/out/there"), ("/out/there", "/work/back")):
        box(f"rsync -aHAX --numeric-ids {source}/ {target}/")
        assert box(f"rsync -aHAXn --checksum --delete --itemize-changes {source}/ {target}/") == ""
    assert box("rsync -aHAXn --checksum --delete --itemize-changes /work/tree/ /work/back/") == ""
    assert box("stat -c %h /work/back/hard /work/back/harder; rm -r /work/tree /work/back /out/there") == "3\n3\n"

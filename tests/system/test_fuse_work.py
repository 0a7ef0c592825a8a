"""Real work in a container on fuse_union: packages installed, built, cloned, copied, and nothing of it damaged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from tests.conftest import Pe, need, need_root
from tests.system.packages import Package, build_wheel

PROJECT = Path(__file__).parents[2]
IMAGE = "debian-root:work"
TIMEOUT_S = 300
WHEELS = 10
# The root lacks apt: dpkg brings it, and apt the rest; both run the packages' maintainer scripts, which start nothing.
BOOTSTRAP = """
export DEBIAN_FRONTEND=noninteractive
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d
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
NPM = """
export HOME=/work npm_config_cache=/work/cache npm_config_offline=true npm_config_loglevel=error
export npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false
"""
APPLICATION = """
const server = require("express")().get("/", (_, answer) => answer.send("served")).listen(0, "127.0.0.1", async () => {
  console.log(await (await fetch(`http://127.0.0.1:${server.address().port}/`)).text());
  server.close();
});
"""
POSTGRES = """
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin); cd /work/postgres
start() { pg_ctl -s -w -D data -l log -o '-c listen_addresses= -k /work/postgres' start; }
ask() { psql -h /work/postgres -qAtF ' ' -v ON_ERROR_STOP=1 postgres "$@"; }
load() { pgbench -n -h /work/postgres -c 4 "$@" postgres; }
# Newer ones add a word of chance to every dump.
dump() { pg_dump -h /work/postgres -t 'pgbench_*' postgres | grep -v '^.[un]*restrict ' | sha256sum; }
"""
# A transaction of pgbench adds the same to one account, teller and branch, and notes it.
BALANCES = """
SELECT (SELECT count(*) FROM pgbench_history), (SELECT sum(abalance) FROM pgbench_accounts),
  (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches),
  (SELECT sum(delta) FROM pgbench_history)
"""

# The first test waits for all of the installation.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Box(Struct, frozen=True, kw_only=True):
    """A running container on fuse_union, with real packages installed in it."""

    pe: Pe
    name: str
    outside: Path  # shown as /out: a plain directory of the host

    def __call__(self, script: str, *args: str, user: str = "root") -> str:
        """Run a script in the container; return what it printed."""
        argv = ("exec", "--user", user, self.name, "sh", "-euc", script, "sh", *args)
        return self.pe(*argv, check=True, timeout=TIMEOUT_S).stdout


def fetched(name: str) -> Path:
    """Return where `.ci/NAME` put packages, called before by `make test` or else now."""
    made = os.environ.get(f"PE_{name.upper().replace('-', '_')}")  # these tests run where there is no network
    path = Path(made) if made else PROJECT / "build" / name
    if not made:
        line = [str(PROJECT / ".ci" / name), str(path)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        need(f"needs {name}: {done.stderr.strip()[-200:]}" if done.returncode else None)
    need(None if (path / "complete").exists() else f"needs {name}: .ci/{name} fetched none")
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
    root, packages = debian_root(base), fetched("debian-packages")
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
    about_cron = "ls -d /etc/crontab /usr/sbin/cron /var/lib/dpkg/info/cron*.postrm 2>/dev/null || true"
    assert box(about_cron).count("\n") == 4
    purge = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge cron cron-daemon-common"
    box(f"{purge} >/log 2>&1 || {{ tail -20 /log; exit 1; }}")
    assert box(f"dpkg --audit; {about_cron}") == ""


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
    assert box("rm /work/*; ls -A /work") == ""


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


def test_npm_installs_runs_and_replaces_packages(box: Box) -> None:
    shutil.copytree(fetched("node-packages"), box.outside / "node", symlinks=True)
    box(
        f"""
        {NPM} cp -r /out/node/cache /out/node/project /work; mkdir /work/npm; tar -C /work/npm -xzf /out/node/npm-*.tgz
        ln -s /work/npm/package/bin/npm-cli.js /usr/local/bin/npm
        cd /work/project; npm ci; npm ls --all; cd /out/node/project; npm ci
        """
    )
    # /out is no union.
    same = "diff -r --no-dereference /work/project/node_modules /out/node/project/node_modules"
    assert box(f"ls /work/project/node_modules | wc -l; {same}").strip().isdigit()
    said = box(
        """
        cd /work/project; echo "$1" >served.js; node served.js; PATH=$PWD/node_modules/.bin:$PATH
        esbuild --bundle --platform=node --log-level=error served.js --outfile=dist/one.js; node dist/one.js
        eslint --no-eslintrc --parser-options=ecmaVersion:2020 served.js; rm -r dist served.js
        """,
        APPLICATION,
    )
    assert said == "served\nserved\n"
    box(f"{NPM} cd /work/project; npm ci; {same}; npm uninstall express; test ! -e node_modules/express; npm ls --all")
    box(f"{NPM} cd /work/project; npm install express@4; npm prune")
    assert box(f"{same} -x .package-lock.json") == ""
    assert box("rm -r /work/project /work/cache /work/npm /usr/local/bin/npm /out/node; ls -A /out") == ""


class Database(Struct, frozen=True, kw_only=True):
    """A PostgreSQL cluster that was killed while it worked, and goes on since."""

    box: Box
    loaded: int  # transactions until then
    before: str  # what BALANCES told then
    after: str  # and once it had recovered
    dump: str  # and a digest of all tables

    def __call__(self, script: str) -> str:
        """Run a script beside it; return what it printed."""
        return self.box(POSTGRES + script, user="postgres")


@pytest.fixture(scope="module")
def database(box: Box) -> Iterator[Database]:
    """Make, load and kill a database."""
    postgres = Database(box=box, loaded=0, before="", after="", dump="")
    box("install -d -o postgres /work/postgres")
    try:
        postgres("initdb --data-checksums --auth=trust -D data >log; start; pgbench -h /work/postgres -iq postgres")
        said = postgres("load -T 5")
        before = postgres(f"ask -c '{BALANCES}'")
        postgres("(load -T 60 >/dev/null 2>&1 &); sleep 2; pg_ctl -s -D data stop -m immediate; start")
        yield Database(
            box=box,
            loaded=int(re.findall(r"actually processed: (\d+)", said)[0]),
            before=before,
            after=postgres(f"ask -c '{BALANCES}'"),
            dump=postgres("dump"),
        )
    finally:
        postgres("pg_ctl -s -D data stop -m immediate || true")
        box("rm -r /work/postgres")


@pytest.fixture(scope="module")
def restarted(database: Database) -> Database:
    """Mount the union anew: stop the container, which kills the database once more, and start it."""
    database.box.pe("restart", database.box.name, check=True)
    return database


def test_postgresql_loses_nothing_when_it_is_killed_in_the_middle(database: Database) -> None:
    assert_balanced(database.before, at_least=database.loaded, at_most=database.loaded)
    assert_balanced(database.after, at_least=database.loaded + 1)
    assert "redo done" in database("cat log")


def test_postgresql_finds_all_of_it_when_its_container_was_restarted(restarted: Database) -> None:
    restarted("start; pg_ctl -s -D data stop")
    assert restarted("pg_checksums --check -D data | grep '^Bad'") == "Bad checksums:  0\n"
    restarted("start; pg_amcheck -h /work/postgres --install-missing --heapallindexed --all")
    assert restarted(f"ask -c '{BALANCES}'") == restarted.after
    assert restarted("dump") == restarted.dump


def assert_balanced(answer: str, *, at_least: int, at_most: int | None = None) -> None:
    """Compare the sums of all tables, and the number of transactions."""
    count, *sums = map(int, answer.split())
    assert len(sums) == 4
    assert len(set(sums)) == 1
    assert at_least <= count <= (count if at_most is None else at_most)

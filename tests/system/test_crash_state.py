"""What the state says after a crash or a restart of the host, and what `pe system check` makes of it."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system import kills
from tests.system.conftest import Leftovers, eventually
from tests.system.kills import rows, state

LONG = ("--storage", "fuse_union", "--net", "bridge", "-p", "7103:7", "--userns", "auto", "host:base", "sleep", "1000")


@pytest.fixture
def own(pe: Pe, tmp_path: Path) -> Iterator[Pe]:
    """Roots for one test, with the images of the others; nothing of them is left at the end."""
    own = Pe(tmp_path / "root", tmp_path / "run")
    before = Leftovers(own).now()
    yield own
    own("system", "reset", "--force", check=True)
    eventually(lambda: not {kind for kind, lines in Leftovers(own).now().items() if lines - before[kind]})


def check(pe: Pe, *, repair: bool = False) -> tuple[int, list[str]]:
    """Return the exit code and the lines of `pe system check`."""
    done = pe("system", "check", *(("--repair",) if repair else ()))
    return done.returncode, done.stdout.splitlines()


def restart_host(pe: Pe, pid: int) -> None:
    """Do to the engine what a power cut and a boot do: no process, no run root, no link, no rule; another boot id.

    Args:
        pe: The engine.
        pid: Another process has every pid of before.
    """
    states = [state(pe, name) for name in rows(pe)]
    for victim in (was[key] for was in states for key in ("MonitorPid", "ServerPid", "Pid")):
        if victim:
            kills.kill(victim)
    for server in kills.process_named(pe, "pe-warm"):
        kills.kill(server)
    shutil.rmtree(pe.run_root)
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    for link in re.findall(r"^\d+: (pe[^:@]*)", links, re.MULTILINE):
        subprocess.run(["ip", "link", "del", link], check=False, capture_output=True)  # peers go together
    started = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    with closing(sqlite3.connect(pe.root / "state.db")) as connection, connection:
        connection.execute("UPDATE containers SET boot_id = 'another boot'")
        connection.execute("UPDATE containers SET owner_pid = ?, owner_start = ?", (pid, started))
        for key in ("pid", "monitor_pid", "server_pid"):
            start = key.replace("pid", "start") if key != "pid" else "pid_start"
            connection.execute(
                f"UPDATE containers SET state = json_set(state, '$.{key}', ?, '$.{start}', ?)", (pid, int(started))
            )


def test_after_a_restart_of_the_host_the_state_is_true_and_everything_starts_again(own: Pe) -> None:
    running = own("run", "-d", *LONG, check=True).stdout.strip()
    going = own("run", "-d", "--rm", "--net", "none", "host:base", "sleep", "1000", check=True).stdout.strip()
    idle = own("create", "--net", "none", "host:base", "true", check=True).stdout.strip()
    own("exec", running, "sh", "-c", "echo kept > /note", check=True)
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        restart_host(own, stranger.pid)
        own("ps", check=True)
        assert stranger.poll() is None, "a process that has a container's old pid is left alone"
        eventually(lambda: rows(own) == {running: "exited", idle: "created"})  # the one with --rm is gone
        after = state(own, running)
        assert "host was restarted" in after["Error"]
        assert (after["Running"], after["Pid"], after["ExitCode"]) == (False, 0, 137)
        own("start", running, check=True)
        assert own("exec", running, "cat", "/note", check=True).stdout == "kept\n"
        assert own("start", "-a", idle).returncode == 0
        assert going not in rows(own)
    finally:
        stranger.kill()
        stranger.wait()


def test_a_check_reports_and_changes_nothing_and_a_repair_mends(own: Pe) -> None:
    name = own("run", "-d", *LONG, check=True).stdout.strip()
    kills.kill(state(own, name)["MonitorPid"])
    stray = own.root / "containers" / ("f" * 64)
    stray.mkdir()
    (stray / "file").write_text("")
    held = ("rows", "directories", "run", "cgroups", "rules")  # links and processes go by themselves
    before = {kind: lines for kind, lines in Leftovers(own).now().items() if kind in held}
    code, lines = check(own)
    assert code == 1
    assert any("is running, but its owner is gone" in line for line in lines)
    assert any(str(stray) in line for line in lines)
    assert all(line.startswith("found: ") for line in lines)
    assert {kind: lines for kind, lines in Leftovers(own).now().items() if kind in held} == before
    assert rows(own) == {name: "running"}
    code, lines = check(own, repair=True)
    assert code == 0
    assert all(line.startswith("repaired: ") for line in lines)
    assert rows(own) == {name: "exited"}
    assert not stray.exists()
    assert check(own) == (0, [])
    own("rm", name, check=True)


def test_a_repair_removes_what_drivers_made_for_containers_nobody_knows(own: Pe) -> None:
    lost = own("run", "-d", *LONG, check=True).stdout.strip()
    kept = own("run", "-d", "--net", "bridge", "-p", "7104:7", "host:base", "sleep", "1000", check=True).stdout.strip()
    kills.kill(state(own, lost)["MonitorPid"])
    with closing(sqlite3.connect(own.root / "state.db")) as connection, connection:
        for table, column in (("containers", "id"), ("leases", "container_id"), ("id_ranges", "container_id")):
            connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (lost,))
    code, lines = check(own, repair=True)
    assert code == 0
    assert any(lost in line for line in lines)
    now = Leftovers(own).now()
    left = [line for kind in ("cgroups", "rules", "processes", "directories", "run") for line in now[kind]]
    assert not [line for line in left if lost[:24] in line]
    assert not [line for line in left if "7103" in line]
    assert own("exec", kept, "echo", "well", check=True).stdout == "well\n"
    assert check(own) == (0, [])


def test_a_repair_and_a_reset_leave_another_engines_container_alone_with_whom_they_share_a_run_root(
    own: Pe, tmp_path: Path
) -> None:
    name = own("run", "-d", "--net", "none", "host:base", "sleep", "1000", check=True).stdout.strip()
    other = Pe(tmp_path / "other", own.run_root)
    (other.root / "containers").mkdir(parents=True)
    assert check(other) == (0, [])
    assert check(other, repair=True) == (0, [])
    other("system", "reset", "--force", check=True)
    assert own("exec", name, "echo", "well", check=True).stdout == "well\n"
    assert check(own) == (0, [])


def test_a_repair_removes_lost_control_groups_below_a_parent_somebody_named(own: Pe) -> None:
    words = ("--net", "none", "--cgroup-parent", "plugengine-test/deep", "host:base", "sleep", "1000")
    lost = own("run", "-d", *words, check=True).stdout.strip()
    kills.kill(state(own, lost)["MonitorPid"])
    with closing(sqlite3.connect(own.root / "state.db")) as connection, connection:
        connection.execute("DELETE FROM containers WHERE id = ?", (lost,))
    groups = [path for path in Path("/sys/fs/cgroup").glob("**/plugengine-test/deep/*") if lost in path.name]
    assert groups
    assert check(own, repair=True)[0] == 0
    assert not [path for path in groups if path.exists()]


def test_a_container_whose_directory_is_gone_is_found_and_can_be_removed(own: Pe) -> None:
    name = own("create", "--name", "back", "--net", "none", "host:base", "true", check=True).stdout.strip()
    shutil.rmtree(own.root / "containers" / name)
    code, lines = check(own)
    assert code == 1
    assert lines == [
        f"found: container back: its directory {own.root}/containers/{name} is gone; remove it: pe rm back"
    ]
    done = own("start", "back")
    assert done.returncode == 1
    assert f"container back: its directory {own.root}/containers/{name} is gone" in done.stderr
    own("rm", "back", check=True)
    assert check(own) == (0, [])


def test_a_container_whose_driver_is_gone_can_still_be_seen_and_removed(own: Pe) -> None:
    name = own("create", "--net", "none", "host:base", "true", check=True).stdout.strip()
    with closing(sqlite3.connect(own.root / "state.db")) as connection, connection:
        connection.execute("UPDATE containers SET choice = json_set(choice, '$.storage', 'vanished')")
    done = own("start", name)
    assert done.returncode == 1, "as for every command that takes several names"
    assert "storage driver vanished: not installed" in done.stderr
    assert name[:12] in own("ps", "-a", check=True).stdout
    own("inspect", name, check=True)
    own("rm", name, check=True)
    assert rows(own) == {}


def test_a_damaged_database_is_named_and_nothing_is_written_to_it(own: Pe) -> None:
    own("ps", check=True)
    database = own.root / "state.db"
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    whole = database.read_bytes()
    database.write_bytes(b"nothing of sqlite" * 1000)
    done = own("ps")
    assert done.returncode == 125
    assert str(database) in done.stderr
    assert "hint: " in done.stderr
    assert database.read_bytes() == b"nothing of sqlite" * 1000
    database.write_bytes(whole)

"""The state database under many processes, kills, forks and full disks."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plugengine.errors import NoSpaceError, StateError
from plugengine.kernel import mount, process
from plugengine.kernel.process import bare_children
from plugengine.model import HostPath
from plugengine.state.state import State
from tests.conftest import need_root
from tests.waiting import PATIENCE_S

CROWD = 64

INSERT = """
import sys
from plugengine.kernel.process import bare_children
from plugengine.state.state import State
state = State(sys.argv[1])
for number in range(5):
    with state.transaction() as cursor:
        count = cursor.execute("SELECT count(*) FROM layers").fetchone()[0]
        row = (f"{sys.argv[2]}-{number}", count)
        cursor.execute("INSERT INTO layers (diff_id, size_bytes, created_ns) VALUES (?, ?, 0)", row)
"""

HOLD = """
import sys, time
from plugengine.kernel.process import bare_children
from plugengine.state.state import State
with State(sys.argv[1]).transaction() as cursor:
    cursor.execute("INSERT INTO layers (diff_id, size_bytes, created_ns) VALUES ('half', 1, 2)")
    print("inside", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def root(tmp_path: Path) -> HostPath:
    return HostPath(str(tmp_path / "root"))


def layers(state: State) -> list[str]:
    return [row["diff_id"] for row in state.query("SELECT diff_id FROM layers ORDER BY 1")]


def add_layer(state: State, name: str) -> None:
    with state.transaction() as cursor:
        cursor.execute("INSERT INTO layers (diff_id, size_bytes, created_ns) VALUES (?, 1, 2)", (name,))


def add_layers(state: State, count: int) -> None:
    for number in range(count):
        add_layer(state, f"{number}" + "x" * 100_000)


def child(work: Callable[[], None], *, wait: bool = True) -> int:
    """Run `work` in a forked child and return its exit status, or its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as exc:  # noqa: BLE001 - a forked child must not go on with the tests
            os.write(2, f"{type(exc).__name__}: {exc}\n".encode())
            os._exit(1)
    if not wait:
        return pid
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_64_processes_that_open_and_insert_at_once_lose_nothing(root: HostPath) -> None:
    crowd = [
        subprocess.Popen([sys.executable, "-c", INSERT, root, str(number)], stderr=subprocess.PIPE, text=True)
        for number in range(CROWD)
    ]
    for each in crowd:
        _, errors = each.communicate(timeout=PATIENCE_S)
        assert each.returncode == 0, errors
    rows = State(root).query("SELECT size_bytes FROM layers")
    # Every transaction saw all the earlier ones: the counts are a gapless sequence.
    assert sorted(row["size_bytes"] for row in rows) == list(range(CROWD * 5))


def test_a_process_killed_inside_a_transaction_leaves_nothing_of_it_and_holds_nobody_up(root: HostPath) -> None:
    state = State(root)
    add_layer(state, "before")
    with subprocess.Popen([sys.executable, "-c", HOLD, root], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "inside\n"
        with pytest.raises(StateError, match="locked"):
            add_layer(State(root, patience_s=0.05), "too early")
        holder.kill()
    add_layer(state, "after")
    assert layers(state) == ["after", "before"]
    assert state.query("PRAGMA integrity_check")[0][0] == "ok"


def test_a_forked_child_opens_its_own_connection_and_both_go_on(root: HostPath) -> None:
    state = State(root)
    add_layer(state, "parent before")
    assert child(lambda: add_layer(state, "child")) == 0
    add_layer(state, "parent after")
    assert layers(state) == ["child", "parent after", "parent before"]


def test_what_a_child_writes_survives_the_parent_closing_first(root: HostPath) -> None:
    """The parent must not take the child's log for unused; see `_before_fork`."""
    state = State(root)
    add_layer(state, "parent")
    go_r, go_w = os.pipe()
    open_r, open_w = os.pipe()

    def work() -> None:
        layers(state)
        os.write(open_w, b"x")
        os.read(go_r, 1)
        add_layer(state, "child")

    pid = child(work, wait=False)
    os.read(open_r, 1)
    state.close()
    os.write(go_w, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for fd in (go_r, go_w, open_r, open_w):
        os.close(fd)
    assert layers(State(root)) == ["child", "parent"]


def test_a_child_inherits_no_descriptor_of_the_database(root: HostPath) -> None:
    state = State(root)
    add_layer(state, "a")

    assert database_descriptors()
    assert child(lambda: check_equal(database_descriptors(), [])) == 0


def test_a_child_inherits_nothing_of_a_state_that_was_dropped_unclosed(root: HostPath) -> None:
    gc.disable()
    try:
        add_layer(State(root), "a")
        assert child(lambda: check_equal(database_descriptors(), [])) == 0
    finally:
        gc.enable()


def test_a_child_that_was_lent_connections_cannot_use_or_close_them(root: HostPath) -> None:
    state = State(root)
    add_layer(state, "a")

    def work() -> None:
        for each in (state, State(root)):
            with pytest.raises(RuntimeError, match="bare_children"):
                layers(each)
        state.close()
        gc.collect()
        assert database_descriptors()

    with bare_children():
        pid = child(work, wait=False)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    add_layer(state, "b")
    assert layers(state) == ["a", "b"]
    assert child(lambda: check_equal(layers(State(root)), ["a", "b"])) == 0


def database_descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed them is gone
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if "state.db" in path]


def check_equal(found: object, wanted: object) -> None:
    assert found == wanted


def test_a_fork_inside_a_transaction_undoes_it_in_both_and_says_so(root: HostPath) -> None:
    state = State(root)
    pid = -1
    try:
        with state.transaction() as cursor:
            cursor.execute("INSERT INTO layers (diff_id, size_bytes, created_ns) VALUES ('a', 1, 2)")
            pid = os.fork()
        message = ""
    except StateError as exc:
        message = exc.message
    found = layers(state)
    if pid == 0:
        os._exit(0 if found == [] and "forked" in message else 2)
    assert "forked" in message
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert found == []
    add_layer(state, "b")
    assert layers(state) == ["b"]


def test_a_fork_waits_for_the_transaction_of_another_thread(root: HostPath) -> None:
    script = """
import os, sys, threading, time
from plugengine.kernel.process import bare_children
from plugengine.state.state import State
state = State(sys.argv[1])
inside = threading.Event()
def work():
    with state.transaction() as cursor:
        cursor.execute("INSERT INTO layers (diff_id, size_bytes, created_ns) VALUES ('thread', 1, 2)")
        inside.set()
        time.sleep(0.3)
thread = threading.Thread(target=work)
thread.start()
inside.wait()
pid = os.fork()
if pid == 0:
    with state.transaction() as cursor:
        cursor.execute("INSERT INTO layers (diff_id, size_bytes, created_ns) VALUES ('child', 1, 2)")
    os._exit(0)
thread.join()
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
print(sorted(row[0] for row in state.query("SELECT diff_id FROM layers")))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script, root], capture_output=True, text=True)
    assert done.stdout == "['child', 'thread']\n", done.stderr


def on_small_filesystem(path: Path, work: Callable[[], None]) -> int:
    """Run `work` in a child whose mount namespace has a tmpfs of 1 MiB at `path`; return its exit status."""
    need_root()

    def inside() -> None:
        process.unshare(process.CLONE_NEWNS)
        mount.mount(None, "/", None, mount.MS_REC | mount.MS_PRIVATE)
        mount.mount("none", str(path), "tmpfs", 0, "size=1m")
        work()

    return child(inside)


def test_a_full_filesystem_is_said_to_be_full_and_nothing_is_lost(tmp_path: Path, root: HostPath) -> None:
    def work() -> None:
        state = State(root)
        add_layer(state, "a")
        (tmp_path / "filler").write_bytes(b"x" * (400 << 10))
        with pytest.raises(NoSpaceError) as caught:
            add_layers(state, 100)
        assert caught.value.hint
        (tmp_path / "filler").unlink()
        add_layer(state, "b")
        assert {"a", "b"} <= set(layers(state))

    assert on_small_filesystem(tmp_path, work) == 0


def test_a_root_on_a_full_filesystem_is_said_to_be_full(tmp_path: Path, root: HostPath) -> None:
    def work() -> None:
        with contextlib.suppress(OSError):
            (tmp_path / "filler").write_bytes(b"x" * (2 << 20))
        with pytest.raises(NoSpaceError):
            layers(State(root))

    assert on_small_filesystem(tmp_path, work) == 0


def test_a_read_only_root_is_said_to_be_read_only(tmp_path: Path, root: HostPath) -> None:
    def work() -> None:
        state = State(root)
        add_layer(state, "a")
        state.close()
        mount.mount(None, str(tmp_path), None, mount.MS_REMOUNT | mount.MS_RDONLY)
        with pytest.raises(StateError, match="mounted read-only") as caught:
            add_layer(state, "b")
        assert "--root" in (caught.value.hint or "")
        with pytest.raises(StateError, match="read-only"):
            layers(State(HostPath(str(tmp_path / "other"))))

    assert on_small_filesystem(tmp_path, work) == 0

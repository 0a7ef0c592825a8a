"""A child of clone3 is a whole interpreter, and a process is never mistaken for another with its pid."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ctypes import c_int
from pathlib import Path

import pytest

from plugengine.kernel import credentials, process
from plugengine.kernel.mountinfo import read_mountinfo
from plugengine.model import HostPath
from plugengine.security import seccomp
from tests.conftest import need
from tests.system.kernel.conftest import InChild
from tests.waiting import PATIENCE_S

EVERY_NAMESPACE = (
    process.CLONE_NEWPID
    | process.CLONE_NEWNS
    | process.CLONE_NEWUTS
    | process.CLONE_NEWIPC
    | process.CLONE_NEWNET
    | process.CLONE_NEWUSER
    | process.CLONE_NEWCGROUP
)


def clone_and_run(flags: int, function: Callable[[], str], *, cgroup_fd: int | None = None) -> str:
    """Run a function in a child of clone3, and return what it returns, or its exception."""
    receive, send = os.pipe()
    pid, pidfd = process.clone3(flags, cgroup_fd=cgroup_fd)
    if pid == 0:
        try:
            report = function()
        except BaseException as exc:  # noqa: BLE001 - the child must not run on into the test
            report = repr(exc)
        os.write(send, report.encode())
        os._exit(42)
    os.close(send)
    with os.fdopen(receive) as pipe:
        report = pipe.read()
    ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
    assert ended is not None
    assert (ended.si_pid, ended.si_status) == (pid, 42), report
    return report


def test_where_a_filter_hides_clone3_the_older_call_is_used(tmp_path: Path) -> None:
    """As in a container with docker's default profile: ENOSYS for clone3, whose flags a filter can't see."""

    default_filter = seccomp.program("default", 0, HostPath(str(tmp_path)))
    assert default_filter is not None

    def inside() -> str:
        credentials.set_no_new_privs()
        credentials.seccomp_set_filter(default_filter)
        first = clone_and_run(0, lambda: f"child of {os.getppid()}")
        with pytest.raises(OSError, match="Function not implemented"):
            process.clone3(process.CLONE_CLEAR_SIGHAND)
        return str(first == f"child of {os.getpid()}")

    assert clone_and_run(0, inside) == "True"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(60)"], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()


def test_a_child_born_into_every_namespace_is_process_one_and_runs_python() -> None:
    def report() -> str:
        import decimal  # not loaded yet: the import system works

        threads: list[str] = []
        worker = threading.Thread(target=lambda: threads.append("ran"))
        worker.start()
        worker.join()
        gc.collect()
        return f"{os.getpid()} {os.getuid()} {decimal.Decimal(1) + 1} {threads}"

    overflow = Path("/proc/sys/kernel/overflowuid").read_text().strip()
    assert clone_and_run(EVERY_NAMESPACE, report) == f"1 {overflow} 2 ['ran']"


def test_every_namespace_of_the_child_is_its_own() -> None:
    names = ["pid", "mnt", "uts", "ipc", "net", "user", "cgroup"]

    def links(of: str) -> list[str]:
        return [os.readlink(f"/proc/{of}/ns/{name}") for name in names]

    theirs = clone_and_run(EVERY_NAMESPACE, lambda: " ".join(links("self"))).split()
    assert [mine == other for mine, other in zip(links("self"), theirs, strict=True)] == [False] * len(names)


def test_an_exception_in_the_child_is_caught_there() -> None:
    def fail() -> str:
        raise KeyError("lost")

    assert clone_and_run(process.CLONE_NEWNS, fail) == "KeyError('lost')"


def test_the_child_can_execute_a_program() -> None:
    receive, send = os.pipe()
    pid, pidfd = process.clone3(process.CLONE_NEWPID)
    if pid == 0:
        try:
            os.dup2(send, 1)
            os.execv("/bin/sh", ["sh", "-c", "echo $$"])
        finally:
            os._exit(127)
    os.close(send)
    with os.fdopen(receive) as pipe:
        assert pipe.read() == "1\n"
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    assert not os.get_inheritable(pidfd)
    os.close(pidfd)


def test_functions_registered_at_fork_run_on_both_sides() -> None:
    script = """
import os
from plugengine.kernel.process import clone3
said = []
os.register_at_fork(before=lambda: said.append("before"), after_in_parent=lambda: said.append("parent"),
                    after_in_child=lambda: said.append("child"))
pid, _ = clone3(0, pidfd=False)
if pid == 0:
    os.write(1, " ".join(said).encode() + b"; ")
    os._exit(0)
os.waitpid(pid, 0)
print(" ".join(said))
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "before child; before parent\n"


def test_the_c_library_of_the_child_knows_its_own_thread_id() -> None:
    def report() -> str:
        return f"{c_int.from_address(process._tid_address()).value} {threading.get_native_id()}"

    assert clone_and_run(process.CLONE_NEWPID, report) == "1 1"
    kept, asked = clone_and_run(0, report).split()
    assert kept == asked != str(os.getpid())


def test_two_hundred_children_leave_nothing() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(200):
        pid, pidfd = process.clone3(process.CLONE_NEWPID | process.CLONE_NEWUTS)
        if pid == 0:
            os._exit(3)
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        assert ended is not None
        assert ended.si_status == 3
        os.close(pidfd)
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_the_pidfd_becomes_readable_when_the_child_ends_and_can_be_left_out() -> None:
    pid, pidfd = process.clone3(0, pidfd=False)
    if pid == 0:
        os._exit(0)
    assert pidfd == -1
    assert os.waitpid(pid, 0) == (pid, 0)


def test_a_refused_clone_names_its_flags_and_leaves_the_interpreter_whole() -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        process.clone3(process.CLONE_NEWUSER | process.CLONE_FS)
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, "flags 0x10000200")
    assert clone_and_run(0, lambda: "still works") == "still works"
    worker = threading.Thread(target=lambda: __import__("colorsys"))  # takes the import lock
    worker.start()
    worker.join(timeout=PATIENCE_S)
    assert not worker.is_alive()


def test_signals_whose_handlers_raise_leave_whole_interpreters_on_both_sides(in_child: InChild) -> None:
    class InterruptError(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise InterruptError

    def clone_interrupted_after(delay: float) -> None:
        me = os.getpid()
        try:
            signal.setitimer(signal.ITIMER_REAL, delay)
            process.clone3(0, pidfd=False)
            while os.getpid() == me:
                time.sleep(0.001)  # pause() would miss a signal that has just been noted
        except InterruptError:
            pass
        finally:
            if os.getpid() != me:  # a child; timers are not inherited
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(10)
                worker = threading.Thread(target=lambda: __import__("colorsys"))
                worker.start()
                worker.join()
                os._exit(0)

    def run() -> list[object]:
        signal.signal(signal.SIGALRM, interrupt)
        for number in range(200):
            clone_interrupted_after(0.000_005 * (number + 1))
        statuses = set()
        try:
            while True:
                statuses.add(os.waitpid(-1, 0)[1])
        except ChildProcessError:
            pass
        worker = threading.Thread(target=lambda: __import__("colorsys"))
        worker.start()
        worker.join(timeout=PATIENCE_S)
        return [sorted(statuses), worker.is_alive()]

    assert in_child(run) == [[0], False]


def test_clone_without_privilege_is_refused(in_child: InChild) -> None:
    def run() -> int | None:
        credentials.capset(0, 0, 0)
        try:
            process.clone3(process.CLONE_NEWNS)
        except OSError as exc:
            return exc.errno
        return None

    assert in_child(run) == errno.EPERM


@pytest.mark.parametrize("flag", [process.CLONE_VM, process.CLONE_FILES, process.CLONE_THREAD, process.CLONE_VFORK])
def test_a_flag_that_would_share_memory_or_descriptors_is_refused(flag: int) -> None:
    with pytest.raises(ValueError, match="would share"):
        process.clone3(flag)


def test_a_child_is_born_into_its_cgroup() -> None:
    points = [entry.mount_point for entry in read_mountinfo() if entry.fstype == "cgroup2"]
    need(None if points else "needs a mounted cgroup2 hierarchy")
    directory = Path(points[0]) / f"plugengine-test-{os.getpid()}"
    directory.mkdir()
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        report = clone_and_run(0, lambda: Path("/proc/self/cgroup").read_text(), cgroup_fd=fd)
    finally:
        os.close(fd)
        directory.rmdir()
    assert f"0::/{directory.name}" in report.splitlines()


def test_unshare_and_setns_go_into_a_namespace_and_back(in_child: InChild) -> None:
    def run() -> list[bool]:
        home = os.open("/proc/self/ns/uts", os.O_RDONLY)
        first = os.readlink("/proc/self/ns/uts")
        process.unshare(process.CLONE_NEWUTS)
        second = os.readlink("/proc/self/ns/uts")
        process.setns(home, process.CLONE_NEWUTS)
        return [first != second, os.readlink("/proc/self/ns/uts") == first]

    assert in_child(run) == [True, True]


def test_setns_of_the_wrong_type_names_the_descriptor() -> None:
    fd = os.open("/proc/self/ns/uts", os.O_RDONLY)
    with pytest.raises(OSError, match=f"descriptor {fd}"):
        process.setns(fd, process.CLONE_NEWNET)
    os.close(fd)


def test_a_time_namespace_takes_offsets_before_its_first_process(in_child: InChild) -> None:
    def run() -> float:
        process.unshare(process.CLONE_NEWTIME)
        Path("/proc/self/timens_offsets").write_text("monotonic 86400 0\n")
        now = time.monotonic()
        return float(clone_and_run(0, lambda: str(time.monotonic()))) - now

    assert 86400 <= in_child(run) < 86400 + 60


def test_a_signal_is_sent_by_pidfd(sleeper: subprocess.Popen[bytes]) -> None:
    pidfd = process.pidfd_open(sleeper.pid)
    process.pidfd_send_signal(pidfd, signal.SIGTERM)
    assert sleeper.wait(timeout=PATIENCE_S) == -signal.SIGTERM
    with pytest.raises(ProcessLookupError, match="signal 15"):
        process.pidfd_send_signal(pidfd, signal.SIGTERM)
    os.close(pidfd)


def test_a_descriptor_of_another_process_is_duplicated(sleeper: subprocess.Popen[bytes]) -> None:
    pidfd = process.pidfd_open(sleeper.pid)
    fd = process.pidfd_getfd(pidfd, 1)
    assert sleeper.stdout is not None
    assert os.fstat(fd).st_ino == os.fstat(sleeper.stdout.fileno()).st_ino
    with pytest.raises(OSError, match=f"descriptor 999 of pidfd {pidfd}"):
        process.pidfd_getfd(pidfd, 999)
    os.close(fd)
    os.close(pidfd)


def test_a_running_process_is_alive_and_can_be_opened(sleeper: subprocess.Popen[bytes]) -> None:
    name = process.ProcessId.of(sleeper.pid)
    assert name is not None
    assert process.is_alive(name)
    pidfd = process.open_pidfd(name)
    assert pidfd is not None
    os.close(pidfd)


def test_a_process_with_a_reused_pid_is_another_one(sleeper: subprocess.Popen[bytes]) -> None:
    start_time = process.process_start_time(sleeper.pid)
    assert start_time is not None
    earlier = process.ProcessId(sleeper.pid, start_time - 1)
    assert not process.is_alive(earlier)
    assert process.open_pidfd(earlier) is None


def test_a_pid_reused_for_a_thread_is_no_process() -> None:
    done = threading.Event()
    worker = threading.Thread(target=done.wait)
    worker.start()
    assert worker.native_id is not None
    assert process.open_pidfd(process.ProcessId(worker.native_id, 1)) is None
    done.set()
    worker.join()


def test_a_zombie_has_a_name_and_is_not_alive() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    name = process.ProcessId.of(pid)
    assert name is not None
    assert not process.is_alive(name)
    os.waitpid(pid, 0)
    assert process.ProcessId.of(pid) is None
    assert not process.is_alive(name)
    assert process.open_pidfd(name) is None


def test_a_command_name_cannot_forge_the_start_time(in_child: InChild) -> None:
    def run() -> bool:
        before = process.process_start_time(os.getpid())
        credentials.set_name(b") Z 1 (x) 2 3")
        return before == process.process_start_time(os.getpid()) and process.is_alive(
            process.ProcessId(os.getpid(), before or 0)
        )

    assert in_child(run) is True


def test_a_process_id_is_a_value() -> None:
    import copy
    import json
    import pickle

    name = process.ProcessId(pid=7, start_time=99)
    assert (
        name == process.ProcessId(*json.loads(json.dumps(name))) == copy.copy(name) == pickle.loads(pickle.dumps(name))
    )
    assert hash(name) == hash(process.ProcessId(7, 99))
    assert name != process.ProcessId(7, 98)
    assert repr(name) == "ProcessId(pid=7, start_time=99)"
    with pytest.raises(AttributeError):
        name.pid = 8  # type: ignore[misc]


def test_the_boot_has_an_id() -> None:
    assert process.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()

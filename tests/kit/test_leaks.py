"""Whatever a driver's hook does to the process or the host, the case fails and says what it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plugengine.model import StorageRequest
from plugengine.testing import Outcome, Verdict, run
from tests.conftest import need_root
from tests.kit import fakes

HOOK = "pe_storage_prepare"


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


def outcome_with(act: Callable[[StorageRequest], object]) -> Outcome:
    report = run("storage", fakes.Bad(act), chosen=[fakes.make_case(fakes.prepare)], patience=3)
    assert report.reasons == ()
    return report.outcomes[0]


WRONG = [
    (fakes.open_a_file, f"{HOOK} left descriptor", "/etc/passwd"),
    (fakes.close_a_file, f"{HOOK} closed descriptor 0 (/dev/null)", "not its own"),
    (fakes.leave_a_socket, f"{HOOK} left descriptor", "socket:"),
    (fakes.leave_a_child, "left the child process", "(sleep 1000) running"),
    (fakes.leave_a_zombie, "left the child process", "which nobody waited for"),
    (fakes.leave_a_daemon, "left the process", "(sleep 1000) running"),
    (fakes.leave_a_mount, "left a mount of tmpfs on /mnt", ""),
    (fakes.leave_a_mount_in_scratch, "left a mount of ", "/containers/"),
    (fakes.take_a_mount_away, "took away the mount of tmpfs on /dev/shm", "not its own"),
    (fakes.change_the_directory, f"{HOOK} changed the working directory from", "to /etc"),
    (fakes.change_the_root, f"{HOOK} changed the root directory", "/proc"),
    (fakes.change_the_umask, f"{HOOK} changed the umask from 0022 to 0077", ""),
    (fakes.change_the_environment, f"{HOOK} changed the environment: KIT_TEST", ""),
    (fakes.change_a_handler, f"{HOOK} changed the handler of SIGUSR1", ""),
    (fakes.block_a_signal, f"{HOOK} changed the blocked signals from", ""),
    (fakes.change_a_namespace, f"{HOOK} changed the uts namespace from uts:[", ""),
    (fakes.change_the_user, f"{HOOK} changed the group id from", ""),
    (fakes.leave_a_thread, f"{HOOK} left 1 thread(s) running", ""),
]


@pytest.mark.parametrize(("act", "beginning", "part"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_what_a_hook_leaves_or_changes_is_a_failure_that_names_it(
    act: Callable[[StorageRequest], object], beginning: str, part: str
) -> None:
    outcome = outcome_with(act)
    assert outcome.verdict is Verdict.FAILED
    assert any(leak.startswith(beginning) and part in leak for leak in outcome.leaks), outcome.leaks


BROKEN = [
    (fakes.exit_at_once, ["the process of the case exited with 3 before it could report", HOOK]),
    (fakes.kill_itself, ["the process of the case was killed by SIGKILL", HOOK]),
    (fakes.kill_its_group, ["the process of the case was killed by SIGKILL", HOOK]),
    (fakes.crash, ["the process of the case was killed by SIGSEGV", HOOK]),
    (fakes.exit_politely, ["DriverError", "SystemExit: enough"]),
    (fakes.divide, ["DriverError", "prepare: ZeroDivisionError"]),
    (fakes.complain, ["DriverError: the moon is full"]),
]


@pytest.mark.parametrize(("act", "parts"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_hook_that_ends_the_process_or_raises_is_a_failure_that_says_how(
    act: Callable[[StorageRequest], object], parts: list[str]
) -> None:
    outcome = outcome_with(act)
    assert outcome.verdict is Verdict.FAILED
    assert all(part in outcome.message for part in parts), outcome.message


def test_a_crash_has_the_stack_it_happened_in() -> None:
    assert "in crash" in outcome_with(fakes.crash).traceback


def test_a_driver_that_leaves_nothing_passes() -> None:
    outcome = outcome_with(lambda request: None)
    assert (outcome.verdict, outcome.reasons) == (Verdict.PASSED, ())
    assert outcome.duration_s > 0


def test_what_lies_below_a_mount_that_was_left_survives() -> None:
    before = sorted(os.listdir("/etc"))
    outcome_with(fakes.leave_a_mount_in_scratch)
    assert sorted(os.listdir("/etc")) == before


def test_a_hook_that_hangs_is_killed_and_the_failure_says_where() -> None:
    case = fakes.make_case(fakes.prepare, deadline_s=1)
    outcome = run("storage", fakes.Bad(fakes.hang), chosen=[case]).outcomes[0]
    assert outcome.verdict is Verdict.FAILED
    assert outcome.message.startswith(f"not done after 1 s, in {HOOK}")
    assert "in hang" in outcome.traceback
    assert outcome.duration_s < 60


def test_patience_moves_the_deadline() -> None:
    case = fakes.make_case(fakes.prepare, deadline_s=0.5)
    outcome = run("storage", fakes.Bad(fakes.hang), chosen=[case], patience=2).outcomes[0]
    assert outcome.message.startswith("not done after 1 s")


def test_a_hook_that_waits_for_a_program_is_killed_with_it_and_the_program_is_named() -> None:
    case = fakes.make_case(fakes.prepare, deadline_s=1)
    outcome = run("storage", fakes.Bad(fakes.hang_in_a_program), chosen=[case]).outcomes[0]
    assert outcome.message.startswith(f"not done after 1 s, in {HOOK}")
    assert "(sleep 1000)" in outcome.message
    assert "in hang_in_a_program" in outcome.traceback
    assert not any(command == b"sleep\x001000\x00" for command in commands())


def commands() -> list[bytes]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found.append(Path(f"/proc/{name}/cmdline").read_bytes())
            except OSError:
                continue
    return found


def test_nothing_of_a_run_stays_on_disk_whatever_the_driver_did(tmp_path: Path) -> None:
    cases = [fakes.make_case(fakes.prepare, f"try.{n}", deadline_s=1) for n in range(3)]
    for act in (fakes.hang, fakes.leave_a_mount_in_scratch, fakes.exit_at_once):
        report = run("storage", fakes.Bad(act), chosen=cases, directory=str(tmp_path))
        assert len(report.failures) == 3
    assert list(tmp_path.iterdir()) == []


# rt_sigaction(2): SIG_IGN for signal 33, as a parent may leave it; the C library takes it with the first thread.
WITH_A_SIGNAL_OF_THE_LIBRARY_IGNORED = """
import ctypes, os, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 13, "aarch64": 134}[os.uname().machine]
if len(sys.argv) == 1:
    action = (ctypes.c_ulong * 4)(1, 0, 0, 0)
    if libc.syscall(number, 33, action, None, 8):
        raise OSError(ctypes.get_errno(), "rt_sigaction")
    os.execv(sys.executable, [sys.executable, "-c", sys.orig_argv[2], "once more"])
from plugengine.testing.leaks import ProcessState
ignored = lambda: [line for line in open("/proc/self/status") if line.startswith("SigIgn")]
raw, before = ignored(), ProcessState.read()
thread = threading.Thread(target=int)
thread.start()
thread.join()
assert ignored() != raw, "nothing to see"
print(before.changes())
"""


def test_what_the_c_library_does_with_its_signals_is_not_the_hooks_doing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITH_A_SIGNAL_OF_THE_LIBRARY_IGNORED], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")

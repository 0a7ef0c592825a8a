"""What a thread gives up is given up, as /proc and the kernel's refusals tell."""

from __future__ import annotations

import errno
import os
import signal
import struct
from pathlib import Path

import pytest

from plugengine.kernel import credentials
from plugengine.kernel.capabilities import capability_set, last_cap
from plugengine.kernel.process import clone3
from tests.system.kernel.conftest import InChild
from tests.system.kernel.filters import (
    BPF_RET_K,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO,
    answer_with,
    filter_answering,
)

CHOWN = capability_set(["CHOWN"])


def status(field: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    (value,) = [line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:")]
    return value


def errno_of(function: object, *args: object) -> int | None:
    assert callable(function)
    try:
        function(*args)
    except OSError as exc:
        return exc.errno
    return None


def test_capability_sets_are_read_as_proc_shows_them() -> None:
    assert credentials.capget() == tuple(int(status(name), 16) for name in ("CapEff", "CapPrm", "CapInh"))
    assert credentials.capget()[0] >> 32, "root should hold capabilities of the high word"


def test_capabilities_of_both_words_are_dropped_and_do_not_come_back(in_child: InChild) -> None:
    kept = capability_set(["SETPCAP", "CHECKPOINT_RESTORE"])

    def run() -> list[object]:
        credentials.capset(kept, kept, 0)
        return [credentials.capget(), errno_of(credentials.capset, kept | CHOWN, kept | CHOWN, 0)]

    assert in_child(run) == [[kept, kept, 0], errno.EPERM]


def test_the_capabilities_of_another_process_are_read() -> None:
    assert credentials.capget(os.getppid())[0] > 0
    with pytest.raises(ProcessLookupError, match="process 4194305"):
        credentials.capget(2**22 + 1)


def test_a_capability_dropped_from_the_bounding_set_is_gone(in_child: InChild) -> None:
    def run() -> list[bool]:
        before = credentials.capbset_read(0)
        credentials.capbset_drop(0)
        return [before, credentials.capbset_read(0), credentials.capbset_read(1)]

    assert in_child(run) == [True, False, True]
    assert errno_of(credentials.capbset_drop, last_cap() + 1) == errno.EINVAL


def test_ambient_capabilities_are_raised_and_cleared(in_child: InChild) -> None:
    def run() -> list[object]:
        refused = errno_of(credentials.cap_ambient_raise, 0)
        effective, permitted, _ = credentials.capget()
        credentials.capset(effective, permitted, CHOWN)
        credentials.cap_ambient_raise(0)
        raised = credentials.cap_ambient_is_set(0)
        credentials.cap_ambient_clear_all()
        return [refused, raised, credentials.cap_ambient_is_set(0)]

    assert in_child(run) == [errno.EPERM, True, False]


@pytest.mark.parametrize("keep", [True, False])
def test_permitted_capabilities_outlive_root_only_when_asked_to(in_child: InChild, keep: bool) -> None:
    def run() -> list[int]:
        credentials.set_keepcaps(enabled=keep)
        credentials.setresuid(1000, 1000, 1000)
        return list(credentials.capget())

    effective, permitted, _ = in_child(run)
    assert (effective, permitted > 0) == (0, keep)


def test_securebits_are_set_and_locked(in_child: InChild) -> None:
    bits = credentials.SECBIT_NOROOT | credentials.SECBIT_NOROOT_LOCKED

    def run() -> list[object]:
        credentials.set_securebits(bits)
        return [credentials.get_securebits(), errno_of(credentials.set_securebits, 0)]

    assert in_child(run) == [bits, errno.EPERM]


def test_no_new_privs_is_set_for_good(in_child: InChild) -> None:
    def run() -> list[str]:
        before = status("NoNewPrivs")
        credentials.set_no_new_privs()
        return [before, status("NoNewPrivs")]

    assert in_child(run) == ["0", "1"]


def test_a_process_that_is_not_dumpable_says_so(in_child: InChild) -> None:
    def run() -> list[int]:
        before = credentials.get_dumpable()
        credentials.set_dumpable(enabled=False)
        return [before, credentials.get_dumpable()]

    assert in_child(run) == [1, 0]


def test_the_name_is_shown_and_cut_at_fifteen_bytes(in_child: InChild) -> None:
    def run() -> str:
        credentials.set_name(b"pe: a name that is long")
        return Path("/proc/self/comm").read_text()

    assert in_child(run) == "pe: a name that\n"


def test_a_child_dies_with_its_parent(in_child: InChild) -> None:
    """The subreaper, two generations up, sees the grandchild die of the signal it asked for."""

    def run() -> int:
        credentials.set_child_subreaper(enabled=True)
        receive, send = os.pipe()
        middle, _ = clone3(0)
        if middle == 0:
            low, _ = clone3(0)
            if low == 0:
                credentials.set_pdeathsig(signal.SIGKILL)
                os.write(send, b"%d" % os.getpid())
                signal.pause()
                os._exit(1)
            signal.pause()
            os._exit(1)
        low = int(os.read(receive, 10))
        os.kill(middle, signal.SIGKILL)
        os.waitpid(middle, 0)
        _, ended = os.waitpid(low, 0)
        return os.waitstatus_to_exitcode(ended)

    assert in_child(run) == -signal.SIGKILL


def test_ids_are_set_for_real_effective_and_saved(in_child: InChild) -> None:
    def run() -> list[object]:
        credentials.setgroups([5, 2**32 - 2])
        credentials.setresgid(1001, 1002, 1003)
        credentials.setresuid(credentials.KEEP_ID, 1005, credentials.KEEP_ID)
        return [status("Groups"), status("Gid").split()[:3], status("Uid").split()[:3]]

    assert in_child(run) == ["5 4294967294", ["1001", "1002", "1003"], ["0", "1005", "0"]]


def test_no_supplementary_group_is_left(in_child: InChild) -> None:
    def run() -> str:
        credentials.setgroups([1, 2])
        credentials.setgroups([])
        return status("Groups")

    assert in_child(run) == ""


@pytest.mark.parametrize("number", [-1, 2**32, 2**32 + 1000])
def test_an_id_that_c_would_wrap_is_refused(number: int) -> None:
    for call in (
        lambda: credentials.setresuid(number, number, number),
        lambda: credentials.setresgid(number, number, number),
        lambda: credentials.setgroups([number]),
        lambda: credentials.setfsuid(number),
    ):
        with pytest.raises(OSError, match=f"id {number}"):
            call()
    assert (os.getresuid(), os.getresgid()) == ((0, 0, 0), (0, 0, 0))


def test_a_file_is_made_as_the_filesystem_user(tmp_path: Path, in_child: InChild) -> None:
    tmp_path.chmod(0o777)

    def run() -> list[int]:
        directory = os.open(tmp_path, os.O_PATH)
        before = [credentials.setfsgid(1008), credentials.setfsuid(1007)]
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
        return [*before, credentials.setfsuid(0)]

    assert in_child(run) == [0, 0, 1007]
    made = (tmp_path / "file").stat()
    assert (made.st_uid, made.st_gid) == (1007, 1008)


def test_a_filesystem_user_not_permitted_is_an_error(in_child: InChild) -> None:
    def run() -> list[int | None]:
        credentials.capset(0, 0, 0)
        return [errno_of(credentials.setfsuid, 1000), errno_of(credentials.setfsgid, 1000)]

    assert in_child(run) == [errno.EPERM, errno.EPERM]


def test_a_filter_refuses_one_call_and_allows_the_others(tmp_path: Path, in_child: InChild) -> None:
    def run() -> list[object]:
        answer_with("renameat2", errno.EDOM)
        from plugengine.kernel.files import AT_FDCWD, renameat2

        return [errno_of(renameat2, AT_FDCWD, "a", AT_FDCWD, "b"), os.getpid() > 0, status("Seccomp")]

    assert in_child(run) == [errno.EDOM, True, "2"]


def test_a_filter_without_privilege_needs_no_new_privs(in_child: InChild) -> None:
    def run() -> int | None:
        credentials.capset(0, 0, 0)
        return errno_of(credentials.seccomp_set_filter, filter_answering("renameat2", errno.EDOM))

    assert in_child(run) == errno.EACCES


@pytest.mark.parametrize(
    "program",
    [b"", b"1234567", struct.pack("=HBBI", BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW) * 4097, b"\xff" * 8],
    ids=["empty", "half an instruction", "too long", "nonsense"],
)
def test_a_broken_filter_is_refused(program: bytes, in_child: InChild) -> None:
    assert in_child(lambda: errno_of(credentials.seccomp_set_filter, program)) == errno.EINVAL
    assert status("Seccomp") == "0"


def test_a_filter_can_hand_out_a_notification_descriptor(in_child: InChild) -> None:
    def run() -> str:
        listener = credentials.seccomp_set_filter(
            filter_answering("renameat2", errno.EDOM), credentials.SECCOMP_FILTER_FLAG_NEW_LISTENER
        )
        return os.readlink(f"/proc/self/fd/{listener}")

    assert in_child(run) == "anon_inode:seccomp notify"


def test_the_kernel_tells_which_filter_actions_it_knows() -> None:
    assert credentials.seccomp_action_available(SECCOMP_RET_ERRNO)
    assert not credentials.seccomp_action_available(0x00010000)


def test_the_personality_is_asked_and_set(in_child: InChild) -> None:
    def run() -> list[int]:
        before = credentials.personality()
        credentials.personality(before | credentials.ADDR_NO_RANDOMIZE)
        return [before, credentials.personality()]

    before, after = in_child(run)
    assert after == before | credentials.ADDR_NO_RANDOMIZE

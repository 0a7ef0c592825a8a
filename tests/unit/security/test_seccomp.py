"""Filters that are really installed, and their cache."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import time
from binascii import crc32
from collections.abc import Callable
from pathlib import Path

import pytest

from plugengine.errors import NotSupportedError
from plugengine.kernel.credentials import seccomp_set_filter, set_no_new_privs
from plugengine.kernel.libc import MACHINE
from plugengine.model import HostPath
from plugengine.security import capabilities, seccomp
from plugengine.security.syscalls import numbers
from tests.conftest import need, need_tool

NONE: frozenset[str] = frozenset()
DEFAULT = capabilities.names(capabilities.DEFAULT)
ADMIN = DEFAULT | {"CAP_SYS_ADMIN"}

CLONE_NEWUSER = 0x10000000
AF_ALG = 38
AF_VSOCK = 40

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args: int) -> int:
    """Return 0, or the errno of the raw call."""
    return raw(numbers(MACHINE)[name], *args)


def raw(number: int, *args: int) -> int:
    result = _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(arg) for arg in args))
    return ctypes.get_errno() if result == -1 else 0


def filtered(program: bytes, act: Callable[[], int]) -> int:
    """Install the program in a child and return what `act` returns there; a negative signal number if it was killed."""
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            set_no_new_privs()
            seccomp_set_filter(program)
            status = act()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def compiled(caps: frozenset[str] = DEFAULT, profile: str = "default") -> bytes:
    return seccomp.compile_profile(profile, caps, MACHINE)


def blocked(*names: str) -> str:
    rule = {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EXDEV}
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        pytest.param(lambda: call("getpid"), 0, id="getpid"),
        pytest.param(lambda: call("unshare", 0), errno.EPERM, id="unshare"),
        pytest.param(lambda: call("keyctl", 0, -1, 0), errno.EPERM, id="keyctl"),
        pytest.param(lambda: call("io_uring_setup", 1, 0), errno.EPERM, id="io-uring"),
        pytest.param(lambda: call("bpf", 0, 0, 0), errno.EPERM, id="bpf"),
        pytest.param(lambda: call("mount", 0, 0, 0, 0, 0), errno.EPERM, id="mount"),
        pytest.param(lambda: call("clone3", 0, 0), errno.ENOSYS, id="clone3"),
        pytest.param(lambda: call("clone", CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0), errno.EPERM, id="clone-user"),
        pytest.param(lambda: call("socket", AF_ALG, 5, 0), errno.EPERM, id="alg"),
        pytest.param(lambda: call("socket", 1 << 32 | AF_VSOCK, 1, 0), errno.EPERM, id="vsock-with-high-bits"),
        pytest.param(lambda: call("socket", 1, 1, 0), 0, id="unix-socket"),
        pytest.param(lambda: call("personality", 0xFFFFFFFF), 0, id="ask-personality"),
        pytest.param(lambda: call("personality", 0x0040000), errno.EPERM, id="no-randomisation"),
        pytest.param(lambda: raw(1000), errno.ENOSYS, id="newer-than-the-profile"),
        pytest.param(lambda: os.waitpid(os.fork() or os._exit(0), 0)[1], 0, id="fork"),
    ],
)
def test_the_default_filter_lets_through_and_refuses_as_dockers(act: Callable[[], int], expected: int) -> None:
    assert filtered(compiled(), act) == expected


def test_a_thread_can_still_be_started() -> None:
    program = compiled()

    def start_thread() -> int:
        import threading

        done: list[int] = []
        thread = threading.Thread(target=done.append, args=(1,))
        thread.start()
        thread.join()
        return len(done) - 1

    assert filtered(program, start_thread) == 0


def test_capabilities_open_the_calls_that_are_about_them() -> None:
    # Reaching the kernel's own checks shows that the filter let the call pass.
    assert filtered(compiled(ADMIN), lambda: call("unshare", 0)) == 0
    assert filtered(compiled(ADMIN), lambda: call("clone3", 0, 0)) == errno.EINVAL
    assert filtered(compiled(NONE), lambda: call("chroot", 0)) == errno.EPERM
    assert filtered(compiled(DEFAULT), lambda: call("chroot", 0)) == errno.EFAULT


def test_calls_of_x32_are_refused() -> None:
    need(None if MACHINE == "x86_64" else "x32 is an ABI of x86_64")
    assert filtered(compiled(), lambda: raw(0x40000000 | numbers(MACHINE)["getpid"])) == errno.EPERM
    assert filtered(compiled(profile=blocked("reboot")), lambda: raw(0x40000000)) == -signal.SIGSYS


PROGRAM_32 = """
static int call(int number, int a, int b, int c) {
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}
void _start(void) { call(1, -call(CALL), 0, 0); }
"""

FLAGS_32 = ("-m32", "-nostdlib", "-static", "-ffreestanding", "-fno-pie", "-no-pie")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param("158, 0, 0, 0", 0, id="sched-yield"),
        pytest.param("359, 38, 5, 0", errno.EPERM, id="socket-alg"),
        pytest.param("310, 0, 0, 0", errno.EPERM, id="unshare"),
        pytest.param("435, 0, 0, 0", errno.ENOSYS, id="clone3"),
    ],
)
def test_32_bit_programs_are_filtered_too(arguments: str, expected: int, tmp_path: Path) -> None:
    need(None if MACHINE == "x86_64" else "32-bit x86 programs need x86_64")
    compiler = need_tool("gcc")
    source = tmp_path / "small.c"
    source.write_text(PROGRAM_32.replace("call(CALL)", f"call({arguments})"))
    built = subprocess.run(
        [compiler, *FLAGS_32, "-o", tmp_path / "small", source],
        capture_output=True,
        text=True,
        check=False,
    )
    need(None if built.returncode == 0 else f"needs gcc -m32: {built.stderr[-200:]}")

    def execute() -> int:
        os.execv(tmp_path / "small", ["small"])

    assert filtered(compiled(), execute) == expected


def test_a_profile_given_as_json_is_installed() -> None:
    program = compiled(profile=blocked("getpgid"))
    assert filtered(program, lambda: call("getpgid", 0)) == errno.EXDEV
    assert filtered(program, lambda: call("getsid", 0)) == 0


def test_a_profile_can_kill() -> None:
    kill = {"names": ["getpgid"], "action": "SCMP_ACT_KILL_PROCESS"}
    text = json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [kill]})
    assert filtered(compiled(profile=text), lambda: call("getpgid", 0)) == -signal.SIGSYS


def test_a_program_of_python_runs_under_the_default_filter() -> None:
    def execute() -> int:
        code = "import subprocess, tempfile; subprocess.run('true', check=True)"
        os.execv(sys.executable, [sys.executable, "-c", code])

    assert filtered(compiled(), execute) == 0


def test_the_cached_program_is_the_compiled_one_and_is_found_quickly(tmp_path: Path) -> None:
    cache = HostPath(str(tmp_path / "cache"))
    first = seccomp.program("default", capabilities.DEFAULT, cache)
    assert first == compiled()
    assert seccomp.program("default", capabilities.DEFAULT, cache) == first
    best = min(timed(lambda: seccomp.program("default", capabilities.DEFAULT, cache)) for _ in range(20))
    assert best < min(timed(compiled) for _ in range(3)) / 20
    assert os.stat(cache).st_mode & 0o777 == 0o700


def timed(act: Callable[[], object]) -> float:
    start = time.process_time()
    act()
    return time.process_time() - start


def test_each_set_of_capabilities_and_each_profile_has_its_own_program(tmp_path: Path) -> None:
    cache = HostPath(str(tmp_path))
    admin = capabilities.resolve(("SYS_ADMIN",), (), available=(1 << 41) - 1)
    programs = {
        seccomp.program("default", capabilities.DEFAULT, cache),
        seccomp.program("default", admin, cache),
        seccomp.program(blocked("getpgid"), admin, cache),
    }
    assert len(programs) == 3
    assert len(os.listdir(cache)) == 3


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other-key", "not-a-file"])
def test_a_damaged_cache_is_compiled_anew(damage: str, tmp_path: Path) -> None:
    cache = HostPath(str(tmp_path))
    good = seccomp.program("default", capabilities.DEFAULT, cache)
    (name,) = os.listdir(cache)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(content[:-8])
    elif damage == "flipped":
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "other-key":
        at = content.index(b"default")
        content[at : at + 7] = b"DEFAULT"
        content[20:24] = crc32(content[24:]).to_bytes(4, "little")
        path.write_bytes(content)
    else:
        path.unlink()
        path.mkdir()
    assert seccomp.program("default", capabilities.DEFAULT, cache) == good


def test_a_cache_that_cannot_be_written_is_done_without() -> None:
    assert seccomp.program("default", capabilities.DEFAULT, HostPath("/proc/nothing/here")) == compiled()


def test_a_hit_imports_neither_json_nor_the_compiler(tmp_path: Path) -> None:
    code = (
        "import sys; from plugengine.security import seccomp;"
        f"seccomp.program('default', {capabilities.DEFAULT}, {str(tmp_path)!r});"
        "print(*[name for name in ('json', 'hashlib', 'plugengine.security.seccomp_compiler') if name in sys.modules])"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert "plugengine.security.seccomp_compiler" in runs[0].stdout
    assert runs[1].stdout.strip() == ""


def test_unconfined_is_no_filter(tmp_path: Path) -> None:
    assert seccomp.program("unconfined", 0, HostPath(str(tmp_path))) is None
    assert os.listdir(tmp_path) == []


def test_a_machine_without_a_table_is_not_supported() -> None:
    with pytest.raises(NotSupportedError, match="riscv64"):
        seccomp.compile_profile("default", DEFAULT, "riscv64")


def test_the_version_is_raised_when_the_default_program_changes() -> None:
    # On a failure: raise seccomp.VERSION, so that programs of the older engine are not used, and put both numbers here.
    assert (seccomp.VERSION, crc32(seccomp.compile_profile("default", DEFAULT, "x86_64"))) == (1, 3371100764)

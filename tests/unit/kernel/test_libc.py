"""Errors of system calls say what happened to which object; what C would misread is refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from plugengine.kernel import files, libc


def test_an_error_has_the_kernels_words_and_the_objects_name() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        files.openat2(files.AT_FDCWD, b"/no/such/\xff", os.O_RDONLY)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.strerror == "No such file or directory"
    assert caught.value.filename == "/no/such/\udcff"
    assert caught.value.__notes__ == ["openat2(2)"]


def test_a_name_with_a_nul_byte_is_refused_instead_of_cut() -> None:
    with pytest.raises(ValueError, match="null byte"):
        files.openat2(files.AT_FDCWD, "/etc\0/nonsense", os.O_RDONLY)


def test_a_call_without_a_known_number_is_named_when_used() -> None:
    call = libc.declare_syscall("no_such_call")
    with pytest.raises(NotImplementedError, match=f"no_such_call on {libc.MACHINE}"):
        call(1, 2)


def test_a_raw_system_call_returns_its_result_or_raises() -> None:
    getpgid = {"x86_64": 121, "aarch64": 155}[libc.MACHINE]
    assert libc.syscall(getpgid, 0) == os.getpgid(0)
    with pytest.raises(ProcessLookupError):
        libc.syscall(getpgid, 2**22 + 1)


def test_no_module_on_the_start_path_drags_a_heavy_one_in() -> None:
    script = (
        "import sys; from plugengine.kernel import files, libc, links, mount, process, credentials, tty; "
        "print(*sys.modules)"
    )
    # -S -E: without site-packages, which may import anything from .pth files.
    root = os.path.dirname(os.path.dirname(os.path.abspath(libc.__file__)))
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", f"import sys; sys.path.insert(0, {os.path.dirname(root)!r}); {script}"],
        check=True,
        capture_output=True,
        text=True,
    )
    heavy = {"dataclasses", "enum", "typing", "re", "socket", "signal", "subprocess", "contextlib", "termios"}
    assert not heavy & set(done.stdout.split())

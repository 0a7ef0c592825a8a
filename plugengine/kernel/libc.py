"""The way into the C library and the kernel: declared functions, system call numbers, errno as `OSError`."""

from __future__ import annotations

import ctypes
import fcntl
import os
from ctypes import get_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
# PyDLL keeps the interpreter lock during the call; fork-like calls need that, see process.clone3.
_libc_locked = ctypes.PyDLL(None, use_errno=True)

# arch/x86/entry/syscalls/syscall_64.tbl
_X86_64 = {
    "bpf": 321,
    "clone": 56,
    "clone3": 435,
    "close_range": 436,
    "fchmodat2": 452,
    "fsconfig": 431,
    "fsmount": 432,
    "fsopen": 430,
    "fspick": 433,
    "keyctl": 250,
    "mount_setattr": 442,
    "move_mount": 429,
    "open_tree": 428,
    "openat2": 437,
    "pidfd_getfd": 438,
    "pidfd_open": 434,
    "pidfd_send_signal": 424,
    "pivot_root": 155,
    "renameat2": 316,
    "rt_sigaction": 13,
    "seccomp": 317,
    "setgroups": 116,
    "setresgid": 119,
    "setresuid": 117,
    "statx": 332,
}

# include/uapi/asm-generic/unistd.h
_AARCH64 = _X86_64 | {
    "bpf": 280,
    "clone": 220,
    "keyctl": 219,
    "pivot_root": 41,
    "renameat2": 276,
    "rt_sigaction": 134,
    "seccomp": 277,
    "setgroups": 159,
    "setresgid": 149,
    "setresuid": 147,
    "statx": 291,
}

_NUMBERS_BY_MACHINE = {"x86_64": _X86_64, "aarch64": _AARCH64}

MACHINE = os.uname().machine

SYSCALL_NUMBERS: dict[str, int] = _NUMBERS_BY_MACHINE.get(MACHINE, {})


def os_error(errno: int, call: str, obj: str | bytes | None, detail: str = "") -> OSError:
    """Build the exception of a failed call; `OSError` picks the subclass by errno.

    Args:
        errno: The value read right after the call.
        call: Name of the call, kept as a note for tracebacks.
        obj: What the call was about; becomes `filename`.
        detail: More words of the kernel, such as a message log; appended to `strerror`.
    """
    reason = os.strerror(errno)
    name = None if obj is None else os.fsdecode(obj)
    error = OSError(errno, f"{reason} ({detail})" if detail else reason, name)
    error.add_note(f"{call}(2)")
    return error


def encode(path: str | bytes) -> bytes:
    """Return the path as the kernel reads it; a NUL byte, which C would silently cut at, is refused."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError(f"embedded null byte in {path!r}")
    return name


def syscall_number(name: str) -> int:
    """Return the number of a system call on this machine.

    Raises:
        NotImplementedError: The machine, or the call on it, is not in the tables above.
    """
    try:
        return SYSCALL_NUMBERS[name]
    except KeyError:
        known = ", ".join(_NUMBERS_BY_MACHINE)
        raise NotImplementedError(
            f"system call {name} on {MACHINE}: number not known (known machines: {known})"
        ) from None


def declare(name: str, *argtypes: Any) -> Callable[..., int]:
    """Return a function of the C library that yields an int and leaves errno to `get_errno`."""
    function = _libc[name]  # indexing, unlike attribute access, makes a new object: argtypes stay our own
    function.argtypes = argtypes
    function.restype = ctypes.c_int
    return function


def declare_syscall(name: str, *argtypes: Any, keep_interpreter_lock: bool = False) -> Callable[..., int]:
    """Return syscall(2) bound to one call; an unknown number raises when used, not when declared."""
    function = (_libc_locked if keep_interpreter_lock else _libc)["syscall"]
    function.argtypes = (ctypes.c_long, *argtypes)
    function.restype = ctypes.c_long
    number = SYSCALL_NUMBERS.get(name)
    if number is None:
        return lambda *_: syscall_number(name)
    return lambda *args: function(number, *args)


def ioctl(fd: int, request: int, argument: int | bytearray | ctypes.Structure, obj: str) -> int:
    """ioctl(2) with a number, or a buffer the kernel may write to; return the result of the call."""
    try:
        result: int = fcntl.ioctl(fd, request, argument)
    except OSError as exc:
        raise os_error(exc.errno or 0, "ioctl", obj) from None
    return result


_syscall = _libc["syscall"]
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long,) * 7
_SYSCALL_ARGUMENTS = 6


def syscall(number: int, *args: int) -> int:
    """syscall(2) with up to six integers, for calls that have no function of their own here.

    Pointers are passed with `ctypes.addressof`; the caller keeps the object alive.

    Raises:
        OSError: The kernel's answer; `filename` is the number, as there is no better name.
    """
    padding = (0,) * (_SYSCALL_ARGUMENTS - len(args))
    result: int = _syscall(number, *args, *padding)
    if result == -1:
        raise os_error(get_errno(), "syscall", f"system call {number}")
    return result

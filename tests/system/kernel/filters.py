"""Seccomp filters that take one system call away, as an old kernel or a strict container would."""

from __future__ import annotations

import struct

from plugengine.kernel.credentials import seccomp_set_filter, set_no_new_privs
from plugengine.kernel.libc import syscall_number

# include/uapi/linux/bpf_common.h, filter.h, seccomp.h
BPF_LD_W_ABS = 0x20
BPF_JEQ_K = 0x15
BPF_RET_K = 0x06
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ERRNO = 0x00050000
_INSTRUCTION = struct.Struct("=HBBI")


def filter_answering(call: str, error: int) -> bytes:
    """Return a program that fails one system call with `error` and allows all others."""
    program = [
        (BPF_LD_W_ABS, 0, 0, 0),
        (BPF_JEQ_K, 0, 1, syscall_number(call)),
        (BPF_RET_K, 0, 0, SECCOMP_RET_ERRNO | error),
        (BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW),
    ]
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)


def answer_with(call: str, error: int) -> None:
    """Fail a system call from now on in this process, without a way back: only for children."""
    set_no_new_privs()
    seccomp_set_filter(filter_answering(call, error))

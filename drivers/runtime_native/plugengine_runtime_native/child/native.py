"""The program of `--init` in a few hundred bytes of machine code, so that no interpreter has to stay in the container.

Its source is init_x86_64.S and init_aarch64.S beside this file; a test assembles it and compares.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

CODE: Final = {
    "x86_64": bytes.fromhex(
        "4c8b44241068696e6974bf0f0000004889e6b89d0000000f054c89c731db0fb60785c0740c6bdb0a8d5c03d048ffc7ebed6a"
        "006aff4889e731f631d241ba08000000b8800000000f0583f8fc74e7bf7d00000085c0784b83f811740d89df89c6b83e0000"
        "000f05ebcc48c7c7ffffffff488d742408ba010000004531d2b83d0000000f0585c07ead39d875dd8b44240889c783e77f75"
        "050fb6fceb0681c780000000b8e70000000f05"
    ),
    "aarch64": bytes.fromhex(
        "f40b40f921cd8d52218dae72e17fbfa9e00180d2e1030091e81480d2010000d4e00314aa1300805242018052011440388100"
        "003421c000517306021bfcffff1701008092e17fbfa9e0030091010080d2020080d2030180d2281180d2010000d41f100031"
        "20ffff542003f8371f440071c0000054e103002ae003132a281080d2010000d4f1ffff1700008092e1230091220080d20300"
        "80d2882080d2010000d41f0000712dfdff541f00136be1feff54e10b40b92018007261000054203c08530400001400000211"
        "02000014a00f8052c80b80d2010000d4"
    ),
}

# include/uapi/linux/elf-em.h
_MACHINES: Final = {"x86_64": 62, "aarch64": 183}

# include/uapi/linux/elf.h: an executable of 64 bits, little-endian, with two program headers
_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
_IDENT: Final = b"\x7fELF\x02\x01\x01"
_ET_EXEC: Final = 2
_EV_CURRENT: Final = 1
_PT_LOAD: Final = 1
_PT_GNU_STACK: Final = 0x6474E551
_PF_X, _PF_W, _PF_R = 1, 2, 4
_ADDRESS: Final = 0x400000
_ALIGNMENT: Final = 0x10000  # the largest page of either machine

# include/uapi/linux/memfd.h; without it a kernel from 6.3 on may be set to make memory files not executable
_MFD_EXEC: Final = 0x10
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def elf(machine: str) -> bytes | None:
    """Return the program as a static executable; None where there is none for this machine."""
    code = CODE.get(machine)
    if code is None:
        return None
    start = _HEADER.size + 2 * _PROGRAM_HEADER.size
    size = start + len(code)
    header = _HEADER.pack(
        _IDENT,
        _ET_EXEC,
        _MACHINES[machine],
        _EV_CURRENT,
        _ADDRESS + start,
        _HEADER.size,
        0,
        0,
        _HEADER.size,
        _PROGRAM_HEADER.size,
        2,
        0,
        0,
        0,
    )
    load = _PROGRAM_HEADER.pack(_PT_LOAD, _PF_R | _PF_X, 0, _ADDRESS, _ADDRESS, size, size, _ALIGNMENT)
    stack = _PROGRAM_HEADER.pack(_PT_GNU_STACK, _PF_R | _PF_W, 0, 0, 0, 0, 0, 0)
    return header + load + stack + code


def open_init(program: bytes) -> int:
    """Return a sealed file in memory with the program; nobody can write to it, whatever they get hold of."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("init", flags | _MFD_EXEC)
    except OSError:
        fd = os.memfd_create("init", flags)  # before Linux 6.3: EINVAL
    os.write(fd, program)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd

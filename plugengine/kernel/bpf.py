"""Load device access programs and attach them to cgroups; bpf(2), cgroup-v2.rst "Device controller"."""

from __future__ import annotations

from ctypes import (
    Structure,
    addressof,
    byref,
    c_char_p,
    c_int,
    c_uint,
    c_uint32,
    c_void_p,
    cast,
    create_string_buffer,
    get_errno,
    sizeof,
)
from ctypes import c_uint64 as u64

from plugengine.kernel.libc import declare_syscall, os_error

# include/uapi/linux/bpf.h
BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_DETACH = 9
BPF_PROG_GET_FD_BY_ID = 13
BPF_PROG_QUERY = 16
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_OVERRIDE = 1 << 0
BPF_F_ALLOW_MULTI = 1 << 1
BPF_F_REPLACE = 1 << 2

_INSTRUCTION_BYTES = 8
_LICENSE = b"GPL"
_LOG_BYTES = 1 << 16
_LOG_LEVEL = 1
_LOG_TAIL_LINES = 3
_MAX_PROGRAMS = 64  # BPF_CGROUP_MAX_PROGS, include/linux/bpf-cgroup-defs.h


class ProgLoadAttr(Structure):
    """union bpf_attr, its members for BPF_PROG_LOAD."""

    _fields_ = (
        ("prog_type", c_uint32),
        ("insn_cnt", c_uint32),
        ("insns", u64),
        ("license", u64),
        ("log_level", c_uint32),
        ("log_size", c_uint32),
        ("log_buf", u64),
        ("kern_version", c_uint32),
        ("prog_flags", c_uint32),
    )


class ProgAttachAttr(Structure):
    """union bpf_attr, its members for BPF_PROG_ATTACH and BPF_PROG_DETACH."""

    _fields_ = (
        ("target_fd", c_uint32),
        ("attach_bpf_fd", c_uint32),
        ("attach_type", c_uint32),
        ("attach_flags", c_uint32),
        ("replace_bpf_fd", c_uint32),
    )


class ProgQueryAttr(Structure):
    """union bpf_attr, its members for BPF_PROG_QUERY."""

    _fields_ = (
        ("target_fd", c_uint32),
        ("attach_type", c_uint32),
        ("query_flags", c_uint32),
        ("attach_flags", c_uint32),
        ("prog_ids", u64),
        ("prog_cnt", c_uint32),
        ("__pad", c_uint32),
    )


class GetFdByIdAttr(Structure):
    """union bpf_attr, its members for BPF_PROG_GET_FD_BY_ID."""

    _fields_ = (("prog_id", c_uint32), ("next_id", c_uint32), ("open_flags", c_uint32))


_bpf = declare_syscall("bpf", c_int, c_void_p, c_uint)


def load_device_program(instructions: bytes) -> int:
    """BPF_PROG_LOAD of a BPF_PROG_TYPE_CGROUP_DEVICE program.

    Args:
        instructions: Array of struct bpf_insn. The context is struct bpf_cgroup_dev_ctx; the program returns 1 to
            allow and 0 to refuse.

    Returns:
        A descriptor of the program, close-on-exec; an attached program outlives it.

    Raises:
        OSError: EINVAL, EACCES: the verifier's last words are in `strerror`; EPERM: needs CAP_BPF and CAP_NET_ADMIN
            or CAP_SYS_ADMIN; EINVAL without words: a kernel without CONFIG_CGROUP_BPF.
    """
    code, license_text = c_char_p(instructions), c_char_p(_LICENSE)
    attributes = ProgLoadAttr(
        prog_type=BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt=len(instructions) // _INSTRUCTION_BYTES,
        insns=_address(code),
        license=_address(license_text),
    )
    fd = _bpf(BPF_PROG_LOAD, byref(attributes), sizeof(attributes))
    if fd >= 0:
        return fd
    error = get_errno()
    log = create_string_buffer(_LOG_BYTES)
    attributes.log_level, attributes.log_size, attributes.log_buf = _LOG_LEVEL, _LOG_BYTES, addressof(log)
    fd = _bpf(BPF_PROG_LOAD, byref(attributes), sizeof(attributes))
    if fd >= 0:
        return fd
    words = "; ".join(log.value.decode(errors="replace").strip().splitlines()[-_LOG_TAIL_LINES:])
    raise os_error(error, "bpf", "device program", words)


def attach_device_program(
    cgroup_fd: int, program_fd: int, flags: int = BPF_F_ALLOW_MULTI, *, replace_fd: int | None = None
) -> None:
    """BPF_PROG_ATTACH to a directory of the unified hierarchy.

    With BPF_F_ALLOW_MULTI the programs of a cgroup and of its ancestors must all allow.

    Args:
        cgroup_fd: The directory.
        program_fd: Of `load_device_program`.
        flags: BPF_F_*.
        replace_fd: An attached program to put this one in the place of, in one step (BPF_F_REPLACE).
    """
    attributes = ProgAttachAttr(
        target_fd=cgroup_fd, attach_bpf_fd=program_fd, attach_type=BPF_CGROUP_DEVICE, attach_flags=flags
    )
    if replace_fd is not None:
        attributes.attach_flags |= BPF_F_REPLACE
        attributes.replace_bpf_fd = replace_fd
    if _bpf(BPF_PROG_ATTACH, byref(attributes), sizeof(attributes)) < 0:
        raise os_error(get_errno(), "bpf", f"cgroup descriptor {cgroup_fd}")


def detach_device_program(cgroup_fd: int, program_fd: int) -> None:
    """BPF_PROG_DETACH; ENOENT: it is not attached there."""
    attributes = ProgAttachAttr(target_fd=cgroup_fd, attach_bpf_fd=program_fd, attach_type=BPF_CGROUP_DEVICE)
    if _bpf(BPF_PROG_DETACH, byref(attributes), sizeof(attributes)) < 0:
        raise os_error(get_errno(), "bpf", f"cgroup descriptor {cgroup_fd}")


def query_device_programs(cgroup_fd: int) -> list[int]:
    """BPF_PROG_QUERY: return the ids of the device programs attached to exactly this cgroup."""
    ids = (c_uint32 * _MAX_PROGRAMS)()
    attributes = ProgQueryAttr(
        target_fd=cgroup_fd, attach_type=BPF_CGROUP_DEVICE, prog_ids=addressof(ids), prog_cnt=_MAX_PROGRAMS
    )
    if _bpf(BPF_PROG_QUERY, byref(attributes), sizeof(attributes)) < 0:
        raise os_error(get_errno(), "bpf", f"cgroup descriptor {cgroup_fd}")
    return list(ids[: attributes.prog_cnt])


def open_program(program_id: int) -> int:
    """BPF_PROG_GET_FD_BY_ID: return a descriptor of a loaded program."""
    attributes = GetFdByIdAttr(prog_id=program_id)
    fd = _bpf(BPF_PROG_GET_FD_BY_ID, byref(attributes), sizeof(attributes))
    if fd < 0:
        raise os_error(get_errno(), "bpf", f"program {program_id}")
    return fd


def _address(text: c_char_p) -> int:
    return cast(text, c_void_p).value or 0

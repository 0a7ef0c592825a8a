"""Attach files to loop devices; see loop(4)."""

from __future__ import annotations

import errno
import os
from ctypes import Structure, c_uint8, c_uint32
from ctypes import c_uint64 as u64

from plugengine.kernel.libc import ioctl, os_error

# include/uapi/linux/loop.h
LOOP_CLR_FD = 0x4C01
LOOP_CONFIGURE = 0x4C0A
LOOP_CTL_GET_FREE = 0x4C82
LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
LO_NAME_SIZE = 64
LO_KEY_SIZE = 32

_CONTROL = "/dev/loop-control"
# A free device may be taken between asking and attaching; this many others in a row are not credible.
_ATTACH_TRIES = 64


class LoopInfo64(Structure):
    """struct loop_info64, include/uapi/linux/loop.h."""

    _fields_ = (
        ("lo_device", u64),
        ("lo_inode", u64),
        ("lo_rdevice", u64),
        ("lo_offset", u64),
        ("lo_sizelimit", u64),
        ("lo_number", c_uint32),
        ("lo_encrypt_type", c_uint32),
        ("lo_encrypt_key_size", c_uint32),
        ("lo_flags", c_uint32),
        ("lo_file_name", c_uint8 * LO_NAME_SIZE),
        ("lo_crypt_name", c_uint8 * LO_NAME_SIZE),
        ("lo_encrypt_key", c_uint8 * LO_KEY_SIZE),
        ("lo_init", u64 * 2),
    )


class LoopConfig(Structure):
    """struct loop_config, include/uapi/linux/loop.h."""

    _fields_ = (("fd", c_uint32), ("block_size", c_uint32), ("info", LoopInfo64), ("__reserved", u64 * 8))


def loop_attach(backing_fd: int, *, read_only: bool = False, autoclear: bool = True) -> tuple[str, int]:
    """LOOP_CTL_GET_FREE and LOOP_CONFIGURE (Linux 5.8): make a block device of an open file.

    Args:
        backing_fd: The file; the device keeps it open.
        read_only: Refuse writes to the device.
        autoclear: Detach when the last user (a mount, this descriptor) is gone, so that nothing can be left behind.

    Returns:
        (path, fd) of the device. With `autoclear`, close the descriptor only after mounting.
    """
    flags = (LO_FLAGS_READ_ONLY if read_only else 0) | (LO_FLAGS_AUTOCLEAR if autoclear else 0)
    config = LoopConfig(fd=backing_fd, info=LoopInfo64(lo_flags=flags))
    for _ in range(_ATTACH_TRIES):
        path = f"/dev/loop{_free_number()}"
        device = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
        try:
            ioctl(device, LOOP_CONFIGURE, config, path)
        except OSError as exc:
            os.close(device)
            if exc.errno != errno.EBUSY:
                raise
            continue
        return path, device
    raise os_error(errno.EBUSY, "ioctl", _CONTROL)


def loop_detach(device_fd: int) -> None:
    """LOOP_CLR_FD: take the file away, at once or with the last user; a device without file counts as detached."""
    try:
        ioctl(device_fd, LOOP_CLR_FD, 0, f"loop descriptor {device_fd}")
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise


def _free_number() -> int:
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        return ioctl(control, LOOP_CTL_GET_FREE, 0, _CONTROL)
    finally:
        os.close(control)

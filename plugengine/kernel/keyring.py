"""Keep the engine's kernel keys to itself; see keyrings(7), keyctl(2)."""

from __future__ import annotations

from ctypes import c_char_p, c_int, get_errno

from plugengine.kernel.libc import declare_syscall, os_error

# include/uapi/linux/keyctl.h
KEYCTL_JOIN_SESSION_KEYRING = 1

_keyctl = declare_syscall("keyctl", c_int, c_char_p)


def join_session_keyring() -> None:
    """KEYCTL_JOIN_SESSION_KEYRING of keyctl(2): take a new, empty session keyring instead of the inherited one.

    Raises:
        OSError: ENOSYS: a kernel without keys; EDQUOT: the user owns too many; EPERM, EACCES: a filter forbids it.
    """
    if _keyctl(KEYCTL_JOIN_SESSION_KEYRING, None) < 0:
        raise os_error(get_errno(), "keyctl", "session keyring")

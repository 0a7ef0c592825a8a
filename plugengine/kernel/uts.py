"""Name the machine, as its UTS namespace shows it: sethostname(2), setdomainname(2)."""

from __future__ import annotations

from ctypes import c_char_p, c_size_t, get_errno

from plugengine.kernel.libc import declare, os_error

_sethostname = declare("sethostname", c_char_p, c_size_t)
_setdomainname = declare("setdomainname", c_char_p, c_size_t)


def sethostname(name: bytes) -> None:
    """sethostname(2); EINVAL: longer than 64 bytes."""
    if _sethostname(name, len(name)) != 0:
        raise os_error(get_errno(), "sethostname", name)


def setdomainname(name: bytes) -> None:
    """setdomainname(2): the NIS domain; EINVAL: longer than 64 bytes."""
    if _setdomainname(name, len(name)) != 0:
        raise os_error(get_errno(), "setdomainname", name)

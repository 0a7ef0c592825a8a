"""What a thread may do: prctl(2), capabilities(7), seccomp(2), user and group ids, personality(2).

The id calls are the raw system calls and move the calling thread only. The C library's versions signal every thread
it knows of, and in the child of a clone3 it still knows those of the parent.
"""

from __future__ import annotations

import errno
from ctypes import (
    Structure,
    byref,
    c_char_p,
    c_int,
    c_ubyte,
    c_uint,
    c_uint32,
    c_ulong,
    c_ushort,
    c_void_p,
    cast,
    get_errno,
    sizeof,
)

from plugengine.kernel.libc import declare, declare_syscall, os_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# include/uapi/linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_GET_SECUREBITS = 27
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_IS_SET = 1
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

# include/uapi/linux/securebits.h
SECBIT_NOROOT = 1 << 0
SECBIT_NOROOT_LOCKED = 1 << 1
SECBIT_NO_SETUID_FIXUP = 1 << 2
SECBIT_NO_SETUID_FIXUP_LOCKED = 1 << 3
SECBIT_KEEP_CAPS = 1 << 4
SECBIT_KEEP_CAPS_LOCKED = 1 << 5
SECBIT_NO_CAP_AMBIENT_RAISE = 1 << 6
SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED = 1 << 7

# include/uapi/linux/capability.h
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_WORD_BITS = 32
_WORD_MASK = 0xFFFFFFFF

# include/uapi/linux/seccomp.h
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_GET_ACTION_AVAIL = 2
SECCOMP_FILTER_FLAG_TSYNC = 1 << 0
SECCOMP_FILTER_FLAG_LOG = 1 << 1
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 1 << 2
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3

# include/uapi/linux/bpf_common.h
BPF_MAXINSNS = 4096

# include/uapi/linux/personality.h
PER_LINUX = 0x0
PER_LINUX32 = 0x8
ADDR_NO_RANDOMIZE = 0x40000
PERSONALITY_QUERY = 0xFFFFFFFF

# (uid_t) -1 means "leave as it is" in every id call; the kernel refuses it as an id.
KEEP_ID = 0xFFFFFFFF


class CapHeader(Structure):
    """struct __user_cap_header_struct, include/uapi/linux/capability.h."""

    _fields_ = (("version", c_uint32), ("pid", c_int))


class CapData(Structure):
    """struct __user_cap_data_struct, include/uapi/linux/capability.h; version 3 takes two, low word first."""

    _fields_ = (("effective", c_uint32), ("permitted", c_uint32), ("inheritable", c_uint32))


class SockFilter(Structure):
    """struct sock_filter, include/uapi/linux/filter.h."""

    _fields_ = (("code", c_ushort), ("jt", c_ubyte), ("jf", c_ubyte), ("k", c_uint32))


class SockFprog(Structure):
    """struct sock_fprog, include/uapi/linux/filter.h."""

    _fields_ = (("len", c_ushort), ("filter", c_void_p))


SOCK_FILTER_BYTES = sizeof(SockFilter)

_prctl = declare("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_capget = declare("capget", c_void_p, c_void_p)
_capset = declare("capset", c_void_p, c_void_p)
_personality = declare("personality", c_ulong)
_setfsuid = declare("setfsuid", c_uint)
_setfsgid = declare("setfsgid", c_uint)
_seccomp = declare_syscall("seccomp", c_uint, c_uint, c_void_p)
_setgroups = declare_syscall("setgroups", c_int, c_void_p)
_setresuid = declare_syscall("setresuid", c_uint, c_uint, c_uint)
_setresgid = declare_syscall("setresgid", c_uint, c_uint, c_uint)


def _prctl_or_raise(option: int, name: str, arg2: int = 0, arg3: int = 0) -> int:
    result = _prctl(option, arg2, arg3, 0, 0)
    if result < 0:
        raise os_error(get_errno(), "prctl", name)
    return result


def set_dumpable(*, enabled: bool) -> None:
    """PR_SET_DUMPABLE: without it, ptrace, core dumps and /proc/PID/* need privilege over the process.

    execve(2) of an ordinary program raises it again.
    """
    _prctl_or_raise(PR_SET_DUMPABLE, "PR_SET_DUMPABLE", int(enabled))


def get_dumpable() -> int:
    """PR_GET_DUMPABLE: 0 no, 1 yes, 2 as root only."""
    return _prctl_or_raise(PR_GET_DUMPABLE, "PR_GET_DUMPABLE")


def set_pdeathsig(signal: int) -> None:
    """PR_SET_PDEATHSIG: be sent `signal` when the *thread* that made this process ends; 0 for none.

    The parent may be gone already: compare getppid(2) afterwards. A set-id execve(2) and a change of ids clear it.
    """
    _prctl_or_raise(PR_SET_PDEATHSIG, "PR_SET_PDEATHSIG", signal)


def set_no_new_privs() -> None:
    """PR_SET_NO_NEW_PRIVS: no execve(2) grants anything any more; there is no way back."""
    _prctl_or_raise(PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS", 1)


def set_child_subreaper(*, enabled: bool) -> None:
    """PR_SET_CHILD_SUBREAPER: become the parent of orphaned descendants."""
    _prctl_or_raise(PR_SET_CHILD_SUBREAPER, "PR_SET_CHILD_SUBREAPER", int(enabled))


def set_name(name: bytes) -> None:
    """PR_SET_NAME: the thread's name in ps(1), of which the kernel keeps 15 bytes."""
    buffer = c_char_p(name)
    _prctl_or_raise(PR_SET_NAME, "PR_SET_NAME", cast(buffer, c_void_p).value or 0)


def set_keepcaps(*, enabled: bool) -> None:
    """PR_SET_KEEPCAPS: keep permitted capabilities when the last user id stops being 0; execve(2) clears it."""
    _prctl_or_raise(PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS", int(enabled))


def get_securebits() -> int:
    """PR_GET_SECUREBITS: SECBIT_* of the thread."""
    return _prctl_or_raise(PR_GET_SECUREBITS, "PR_GET_SECUREBITS")


def set_securebits(bits: int) -> None:
    """PR_SET_SECUREBITS; needs CAP_SETPCAP."""
    _prctl_or_raise(PR_SET_SECUREBITS, "PR_SET_SECUREBITS", bits)


def capbset_read(cap: int) -> bool:
    """PR_CAPBSET_READ; EINVAL: the kernel does not know the capability."""
    return _prctl_or_raise(PR_CAPBSET_READ, f"capability {cap}", cap) == 1


def capbset_drop(cap: int) -> None:
    """PR_CAPBSET_DROP: take a capability out of the bounding set; needs CAP_SETPCAP."""
    _prctl_or_raise(PR_CAPBSET_DROP, f"capability {cap}", cap)


def cap_ambient_clear_all() -> None:
    """PR_CAP_AMBIENT_CLEAR_ALL."""
    _prctl_or_raise(PR_CAP_AMBIENT, "PR_CAP_AMBIENT_CLEAR_ALL", PR_CAP_AMBIENT_CLEAR_ALL)


def cap_ambient_is_set(cap: int) -> bool:
    """PR_CAP_AMBIENT_IS_SET."""
    return _prctl_or_raise(PR_CAP_AMBIENT, f"capability {cap}", PR_CAP_AMBIENT_IS_SET, cap) == 1


def cap_ambient_raise(cap: int) -> None:
    """PR_CAP_AMBIENT_RAISE; the capability must be permitted and inheritable."""
    _prctl_or_raise(PR_CAP_AMBIENT, f"capability {cap}", PR_CAP_AMBIENT_RAISE, cap)


def capget(pid: int = 0) -> tuple[int, int, int]:
    """capget(2), version 3.

    Args:
        pid: A thread; 0 is the calling one.

    Returns:
        (effective, permitted, inheritable), bit n for capability n.
    """
    header = CapHeader(_LINUX_CAPABILITY_VERSION_3, pid)
    words = (CapData * 2)()
    if _capget(byref(header), words) != 0:
        raise os_error(get_errno(), "capget", f"process {pid}")
    low, high = words
    return (
        low.effective | high.effective << _WORD_BITS,
        low.permitted | high.permitted << _WORD_BITS,
        low.inheritable | high.inheritable << _WORD_BITS,
    )


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2), version 3, on the calling thread; sets as in `capget`. EPERM: more than there was to give."""
    header = CapHeader(_LINUX_CAPABILITY_VERSION_3, 0)
    sets = (effective, permitted, inheritable)
    words = (CapData * 2)(
        CapData(*(each & _WORD_MASK for each in sets)),
        CapData(*(each >> _WORD_BITS for each in sets)),
    )
    if _capset(byref(header), words) != 0:
        raise os_error(get_errno(), "capset", "calling thread")


def seccomp_set_filter(program: bytes, flags: int = 0) -> int:
    """SECCOMP_SET_MODE_FILTER of seccomp(2): filter the system calls of this thread and its children, for good.

    Needs no_new_privs or CAP_SYS_ADMIN (EACCES without).

    Args:
        program: Array of struct sock_filter, checked by the kernel.
        flags: SECCOMP_FILTER_FLAG_*.

    Returns:
        The notification descriptor with SECCOMP_FILTER_FLAG_NEW_LISTENER, else 0.
    """
    length, rest = divmod(len(program), SOCK_FILTER_BYTES)
    if rest or not 0 < length <= BPF_MAXINSNS:
        raise os_error(errno.EINVAL, "seccomp", f"filter of {len(program)} bytes")
    buffer = c_char_p(program)
    result = _seccomp(SECCOMP_SET_MODE_FILTER, flags, byref(SockFprog(length, cast(buffer, c_void_p))))
    if result < 0:
        raise os_error(get_errno(), "seccomp", f"filter of {length} instructions")
    if result > 0 and not flags & SECCOMP_FILTER_FLAG_NEW_LISTENER:
        # With SECCOMP_FILTER_FLAG_TSYNC this is the thread that could not follow, and nothing was installed.
        raise os_error(errno.ESRCH, "seccomp", f"thread {result}")
    return result


def seccomp_action_available(action: int) -> bool:
    """SECCOMP_GET_ACTION_AVAIL of seccomp(2): tell whether the kernel knows a SECCOMP_RET_* value."""
    if _seccomp(SECCOMP_GET_ACTION_AVAIL, 0, byref(c_uint32(action))) == 0:
        return True
    error = get_errno()
    if error == errno.EOPNOTSUPP:
        return False
    raise os_error(error, "seccomp", f"action {action:#x}")


def setgroups(groups: Sequence[int]) -> None:
    """setgroups(2) on the calling thread; EPERM also in a user namespace that denies it, user_namespaces(7)."""
    ids = (c_uint * len(groups))(*map(_checked_id, groups))
    if _setgroups(len(groups), ids) != 0:
        raise os_error(get_errno(), "setgroups", ",".join(map(str, groups)))


def setresuid(ruid: int, euid: int, suid: int) -> None:
    """setresuid(2) on the calling thread; KEEP_ID leaves one as it is."""
    if _setresuid(_id_or_keep(ruid), _id_or_keep(euid), _id_or_keep(suid)) != 0:
        raise os_error(get_errno(), "setresuid", f"user {euid}")


def setresgid(rgid: int, egid: int, sgid: int) -> None:
    """setresgid(2) on the calling thread; KEEP_ID leaves one as it is."""
    if _setresgid(_id_or_keep(rgid), _id_or_keep(egid), _id_or_keep(sgid)) != 0:
        raise os_error(get_errno(), "setresgid", f"group {egid}")


def setfsuid(uid: int) -> int:
    """setfsuid(2): be this user towards filesystems only, and return the one before.

    The call itself never reports failure, so the result is read back: EPERM without CAP_SETUID.
    """
    before = _setfsuid(_checked_id(uid)) & KEEP_ID
    if _setfsuid(KEEP_ID) & KEEP_ID != uid:
        raise os_error(errno.EPERM, "setfsuid", f"user {uid}")
    return before


def setfsgid(gid: int) -> int:
    """setfsgid(2): be this group towards filesystems only, and return the one before; see `setfsuid`."""
    before = _setfsgid(_checked_id(gid)) & KEEP_ID
    if _setfsgid(KEEP_ID) & KEEP_ID != gid:
        raise os_error(errno.EPERM, "setfsgid", f"group {gid}")
    return before


def personality(persona: int = PERSONALITY_QUERY) -> int:
    """personality(2): set the execution domain and return the one before; without argument only ask."""
    before = _personality(persona)
    if before < 0:
        raise os_error(get_errno(), "personality", f"{persona:#x}")
    return before


def _checked_id(number: int) -> int:
    """Refuse what C would wrap: 2**32 would become root."""
    if not 0 <= number < KEEP_ID:
        raise os_error(errno.EINVAL, "setresuid", f"id {number}")
    return number


def _id_or_keep(number: int) -> int:
    return number if number == KEEP_ID else _checked_id(number)

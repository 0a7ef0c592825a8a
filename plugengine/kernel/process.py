"""Make, name, signal and move processes: clone3(2), setns(2), unshare(2), pidfds, start times."""

from __future__ import annotations

import errno
import os
from ctypes import (
    Structure,
    addressof,
    byref,
    c_char_p,
    c_int,
    c_long,
    c_size_t,
    c_uint,
    c_ulong,
    c_void_p,
    get_errno,
    pythonapi,
    sizeof,
)
from ctypes import c_uint64 as u64

from plugengine.kernel.libc import MACHINE, declare, declare_syscall, os_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

# include/uapi/linux/sched.h
CLONE_VM = 0x00000100
CLONE_FS = 0x00000200
CLONE_FILES = 0x00000400
CLONE_SIGHAND = 0x00000800
CLONE_PIDFD = 0x00001000
CLONE_VFORK = 0x00004000
CLONE_PARENT = 0x00008000
CLONE_THREAD = 0x00010000
CLONE_NEWNS = 0x00020000
CLONE_CHILD_CLEARTID = 0x00200000
CLONE_CHILD_SETTID = 0x01000000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_NEWTIME = 0x00000080
CLONE_CLEAR_SIGHAND = 0x100000000
CLONE_INTO_CGROUP = 0x200000000

# By the name of the link below /proc/PID/ns; see namespaces(7)
NAMESPACE_FLAGS = {
    "pid": CLONE_NEWPID,
    "net": CLONE_NEWNET,
    "mnt": CLONE_NEWNS,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "cgroup": CLONE_NEWCGROUP,
    "user": CLONE_NEWUSER,
    "time": CLONE_NEWTIME,
}

# include/uapi/linux/pidfd.h
PIDFD_NONBLOCK = os.O_NONBLOCK

# include/uapi/asm-generic/signal.h; the signal module costs more to import than all of this file
SIGKILL = 9
SIGCHLD = 17
SIG_SETMASK = 2

# include/uapi/linux/prctl.h
PR_GET_TID_ADDRESS = 40

# A child that shares memory needs a stack of its own, which an interpreter can't move to.
_NOT_A_FORK = CLONE_VM | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_VFORK

# proc_pid_stat(5): the fields after the command's closing parenthesis begin with (3) state
_STAT_STATE = 0
_STAT_PARENT = 1
_STAT_START_TIME = 22 - 3
_DEAD_STATES = (b"Z", b"X", b"x")
# A command of 64 bytes and 50 numbers of at most 20 digits fit.
_STAT_BYTES = 2048


class SigSet(Structure):
    """sigset_t of the C library, which has room for 1024 signals."""

    _fields_ = (("__val", c_ulong * 16),)


_EVERY_SIGNAL = SigSet((c_ulong * 16)(*[2**64 - 1] * 16))


class CloneArgs(Structure):
    """struct clone_args as of Linux 5.7 (CLONE_ARGS_SIZE_VER2), include/uapi/linux/sched.h."""

    _fields_ = (
        ("flags", u64),
        ("pidfd", u64),
        ("child_tid", u64),
        ("parent_tid", u64),
        ("exit_signal", u64),
        ("stack", u64),
        ("stack_size", u64),
        ("tls", u64),
        ("set_tid", u64),
        ("set_tid_size", u64),
        ("cgroup", u64),
    )


_bare_blocks = 0


class bare_children:  # noqa: N801 - used as a statement; contextlib costs more to import than all of this file
    """Let forks in this block make children that use nothing of this process but its memory and system calls.

    What is guarded against forks (an open database) is then left as it is, which saves closing and opening it again;
    a child that uses it nevertheless gets an error. See `children_are_bare`.
    """

    def __enter__(self) -> None:
        """Begin the block."""
        global _bare_blocks
        _bare_blocks += 1

    def __exit__(self, *_exc: object) -> None:
        """End it."""
        global _bare_blocks
        _bare_blocks -= 1


def children_are_bare() -> bool:
    """Tell whether this is within `bare_children`; for what is registered with `os.register_at_fork`."""
    return _bare_blocks > 0


# The flags of clone3 alone, and the byte in which clone(2) has the exit signal.
_ONLY_CLONE3 = 0xFF | ~0xFFFFFFFF

_clone3 = declare_syscall("clone3", c_void_p, c_size_t, keep_interpreter_lock=True)
_clone = declare_syscall("clone", c_ulong, c_void_p, c_void_p, c_void_p, c_void_p, keep_interpreter_lock=True)
_setns = declare("setns", c_int, c_int)
_unshare = declare("unshare", c_int)
_pthread_sigmask = declare("pthread_sigmask", c_int, c_void_p, c_void_p)
_prctl = declare("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_pidfd_open = declare_syscall("pidfd_open", c_int, c_uint)
_pidfd_send_signal = declare_syscall("pidfd_send_signal", c_int, c_int, c_void_p, c_uint)
_pidfd_getfd = declare_syscall("pidfd_getfd", c_int, c_int, c_uint)
_rt_sigaction = declare_syscall("rt_sigaction", c_int, c_char_p, c_void_p, c_size_t)
_DEFAULT_ACTION = bytes(4 * sizeof(c_long))  # struct sigaction of the kernel: SIG_DFL, no flags, nothing masked
_SIGSET_BYTES = 8  # of the kernel's sigset_t: 64 signals

_before_fork = pythonapi["PyOS_BeforeFork"]
_after_fork_child = pythonapi["PyOS_AfterFork_Child"]
_after_fork_parent = pythonapi["PyOS_AfterFork_Parent"]
for _function in (_before_fork, _after_fork_child, _after_fork_parent):
    _function.argtypes = ()
    _function.restype = None


def clone3(
    flags: int, *, pidfd: bool = True, cgroup_fd: int | None = None, exit_signal: int = SIGCHLD
) -> tuple[int, int]:
    """clone3(2) as a fork(2) with flags: the child is born inside its namespaces and its cgroup.

    The child is a whole interpreter: the fork functions of the interpreter and of `os.register_at_fork` have
    run, as after os.fork(). The C library's have not; it learns the new thread id, but locks that *other*
    threads of the parent held at that moment (the allocator's, say) stay locked; and where another thread has
    asked for the interpreter's lock, the child hands it over to nobody and waits for ever, before it can forget
    that thread. So call it from a process with one thread. The child leaves with exec or `os._exit`, and reports
    in between through a pipe. Where a seccomp filter hides the call (ENOSYS), clone(2) is used, if it knows the flags.

    Args:
        flags: CLONE_NEW* and others that keep memory and descriptors apart.
        pidfd: Ask for a pidfd; it is close-on-exec.
        cgroup_fd: Directory of a cgroup on the unified hierarchy to be born into.
        exit_signal: What the parent is sent when the child ends; another one than SIGCHLD needs __WALL to wait.

    Returns:
        (pid, pidfd) in the parent, with -1 for a pidfd not asked for; (0, -1) in the child. The pid is the
        parent's view of it, the child of a CLONE_NEWPID sees itself as 1.

    Raises:
        ValueError: A flag that would share memory or descriptors.
        OSError: EPERM: no CAP_SYS_ADMIN; ENOSPC: a namespace limit; EINVAL, EBUSY, EOPNOTSUPP: see clone(2).
    """
    if flags & _NOT_A_FORK:
        raise ValueError(f"flags {flags:#x} would share memory or descriptors with the child")
    pidfd_out = c_int(-1)
    args = CloneArgs(flags=flags, exit_signal=exit_signal)
    if pidfd:
        args.flags |= CLONE_PIDFD
        args.pidfd = addressof(pidfd_out)
    if cgroup_fd is not None:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = cgroup_fd
    tid_address = _tid_address()
    if tid_address:
        args.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
        args.child_tid = tid_address
    pid, error = _fork_with(args)
    if pid < 0:
        raise os_error(error, "clone3", f"flags {flags:#x}")
    return pid, pidfd_out.value if pid else -1


def _fork_with(args: CloneArgs) -> tuple[int, int]:
    """Do what os.fork() does around the call, and return (pid, errno).

    A signal handler that raises between these lines would leave the import lock taken, or a child that is half an
    interpreter; so signals wait.
    """
    mask = SigSet()
    _pthread_sigmask(SIG_SETMASK, None, byref(mask))
    try:
        # Inside, because a handler may raise as soon as this returns.
        _pthread_sigmask(SIG_SETMASK, byref(_EVERY_SIGNAL), None)
        _before_fork()
        pid = _clone3(byref(args), sizeof(args))
        error = get_errno()
        if pid < 0 and error == errno.ENOSYS and not args.flags & _ONLY_CLONE3:
            pid = _older_clone(args)
            error = get_errno()
        if pid == 0:
            _after_fork_child()
        else:
            _after_fork_parent()
        return pid, error
    finally:
        _pthread_sigmask(SIG_SETMASK, byref(mask), None)


def _older_clone(args: CloneArgs) -> int:
    """clone(2), whose last two arguments change places between machines."""
    last = (args.child_tid, 0) if MACHINE == "x86_64" else (0, args.child_tid)
    return _clone(args.flags | args.exit_signal, None, args.pidfd, *last)


def _tid_address() -> int:
    """Return where the C library keeps the thread id, for the kernel to set in the child as fork(3) does.

    The kernel knows the place from set_tid_address(2). Without CONFIG_CHECKPOINT_RESTORE it does not tell,
    and the child keeps its parent's thread id there; only robust and error-checking mutexes would notice.
    """
    place = c_long(0)
    if _prctl(PR_GET_TID_ADDRESS, addressof(place), 0, 0, 0) != 0:
        return 0
    return place.value


def default_action(signal: int) -> None:
    """rt_sigaction(2) with SIG_DFL, also for the signals the C library keeps to itself."""
    if _rt_sigaction(signal, _DEFAULT_ACTION, None, _SIGSET_BYTES) != 0:
        raise os_error(get_errno(), "rt_sigaction", f"signal {signal}")


def setns(fd: int, nstype: int = 0) -> None:
    """setns(2): enter the namespace of an open /proc/PID/ns file, or those of a pidfd named by `nstype`.

    It moves the calling thread only. In a process with several threads, user and mount namespaces say EINVAL
    and time namespaces EUSERS.
    """
    if _setns(fd, nstype) != 0:
        raise os_error(get_errno(), "setns", f"descriptor {fd}")


def unshare(flags: int) -> None:
    """unshare(2).

    CLONE_NEWPID and CLONE_NEWTIME act on children made later. A time namespace takes offsets only until the
    first process is in it: unshare, write /proc/self/timens_offsets, then fork (time_namespaces(7)); a clone3
    with CLONE_NEWTIME is too late for them.
    """
    if _unshare(flags) != 0:
        raise os_error(get_errno(), "unshare", f"flags {flags:#x}")


def pidfd_open(pid: int, flags: int = 0) -> int:
    """pidfd_open(2); the descriptor is close-on-exec, a zombie can still be opened."""
    fd = _pidfd_open(pid, flags)
    if fd < 0:
        raise os_error(get_errno(), "pidfd_open", f"process {pid}")
    return fd


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """pidfd_send_signal(2); ESRCH: the process has ended and was reaped."""
    if _pidfd_send_signal(pidfd, signal, None, 0) != 0:
        raise os_error(get_errno(), "pidfd_send_signal", f"signal {signal} to pidfd {pidfd}")


def pidfd_getfd(pidfd: int, targetfd: int) -> int:
    """pidfd_getfd(2): duplicate a descriptor of another process; it is close-on-exec."""
    fd = _pidfd_getfd(pidfd, targetfd, 0)
    if fd < 0:
        raise os_error(get_errno(), "pidfd_getfd", f"descriptor {targetfd} of pidfd {pidfd}")
    return fd


class ProcessId(tuple[int, int]):
    """A process named so that a reused pid is not mistaken for it: (pid, start_time).

    A tuple and not a dataclass: importing dataclasses costs more than all that a start needs of this package.
    """

    __slots__ = ()

    def __new__(cls, pid: int, start_time: int) -> Self:
        """Name a process; `of` looks its start time up."""
        return super().__new__(cls, (pid, start_time))

    def __getnewargs__(self) -> tuple[int, int]:
        return self.pid, self.start_time

    def __repr__(self) -> str:
        return f"ProcessId(pid={self.pid}, start_time={self.start_time})"

    @property
    def pid(self) -> int:
        """The pid, in the pid namespace of the reader."""
        return self[0]

    @property
    def start_time(self) -> int:
        """Clock ticks from boot to the start of the process; compare it only within one `boot_id`."""
        return self[1]

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Name a process that runs now, or is a zombie; None when there is none."""
        start_time = process_start_time(pid)
        return None if start_time is None else cls(pid, start_time)


def process_start_time(pid: int) -> int | None:
    """Return field 22 of /proc/PID/stat in clock ticks since boot; None when there is no such process."""
    fields = _stat_fields(pid)
    return int(fields[_STAT_START_TIME]) if fields else None


def parent_of(pid: int) -> int | None:
    """Return field 4 of /proc/PID/stat; None when there is no such process. A zombie has a parent, too."""
    fields = _stat_fields(pid)
    return int(fields[_STAT_PARENT]) if fields else None


def is_alive(process: ProcessId) -> bool:
    """Tell whether this very process still runs; a zombie does not."""
    fields = _stat_fields(process.pid)
    if not fields or fields[_STAT_STATE] in _DEAD_STATES:
        return False
    return int(fields[_STAT_START_TIME]) == process.start_time


def open_pidfd(process: ProcessId) -> int | None:
    """Open a pidfd of this very process; None when it is gone, even if its pid is in use again.

    The start time is compared after opening: from then on the descriptor can't change its meaning.
    """
    try:
        pidfd = pidfd_open(process.pid)
    except OSError as exc:
        # EINVAL, and ENOENT since Linux 6.9: the number is in use again, for a thread that leads no process.
        if exc.errno not in {errno.ESRCH, errno.EINVAL, errno.ENOENT}:
            raise
        return None
    if process_start_time(process.pid) == process.start_time:
        return pidfd
    os.close(pidfd)
    return None


def send_signal(process: ProcessId, signal: int) -> bool:
    """Send a signal to this very process; False when it has ended and was reaped."""
    pidfd = open_pidfd(process)
    if pidfd is None:
        return False
    try:
        pidfd_send_signal(pidfd, signal)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def _stat_fields(pid: int) -> list[bytes]:
    """Return the fields from (3) state on, none when the process is gone."""
    try:
        fd = os.open(b"/proc/%d/stat" % pid, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        content = os.read(fd, _STAT_BYTES)
    except ProcessLookupError:
        return []  # it was reaped between open and read
    finally:
        os.close(fd)
    # The command may hold spaces and parentheses, the last one ends it.
    return content[content.rindex(b")") + 2 :].split()


def boot_id() -> str:
    """Return the random id of this boot of the machine, random(4)."""
    fd = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, len("01234567-89ab-cdef-0123-456789abcdef\n")).decode().strip()
    finally:
        os.close(fd)

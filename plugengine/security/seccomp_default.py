"""The filter an ordinary container gets: what docker's default lets through, said by purpose.

Everything not named here is refused with EPERM. Not named on purpose: io_uring (its operations pass no filter), the
keyring (not namespaced), userfaultfd, kexec, swapon, modules, the new mount calls and everything obsolete.
"""

from __future__ import annotations

import errno

from plugengine.security.seccomp_profile import (
    COMPATIBLE,
    LOW_WORD,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO,
    Condition,
    Context,
    Profile,
    Rule,
)

_REFUSED = SECCOMP_RET_ERRNO | errno.EPERM
_UNKNOWN = SECCOMP_RET_ERRNO | errno.ENOSYS

_FILES = """
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
    fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
    fdatasync flock fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents
    getdents64 ioctl lchown lchown32 link linkat listmount _llseek lseek lstat lstat64 mkdir mkdirat mknod mknodat
    name_to_handle_at newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read
    readahead readlink readlinkat readv rename renameat renameat2 rmdir sendfile sendfile64 splice stat stat64 statfs
    statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink
    unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev
"""
_ATTRIBUTES = """
    fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr
    lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat
"""
_WAITING = """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
    io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect poll ppoll ppoll_time64 pselect6
    pselect6_time64 select signalfd signalfd4
"""
_MEMORY = """
    brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap
    mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease
    remap_file_pages
"""
_PROCESSES = """
    execve execveat exit exit_group fork get_robust_list get_thread_area getcpu getpgid getpgrp getpid getppid
    getpriority getrlimit getrusage getsid gettid ioprio_get ioprio_set kill pidfd_open pidfd_send_signal prctl
    prlimit64 process_vm_readv process_vm_writev ptrace rseq sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
    set_robust_list set_thread_area set_tid_address setpgid setpriority setrlimit setsid tgkill times tkill ugetrlimit
    uretprobe vfork wait4 waitid waitpid
"""
_CREDENTIALS = """
    capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32
    getresuid getresuid32 getuid getuid32 landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp
    setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid
    setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32
"""
_SIGNALS = """
    alarm pause restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn
"""
_TIME = """
    adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64
"""
# socketcall: the only way to sockets for older 32-bit programs; its family is at a pointer, so it passes unseen.
_SOCKETS = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64
    recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
"""
_EXCHANGE = """
    futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake ipc mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd
    semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget
"""
_SYSTEM = "getrandom sysinfo uname"

_ALWAYS = (
    _FILES, _ATTRIBUTES, _WAITING, _MEMORY, _PROCESSES, _CREDENTIALS, _SIGNALS, _TIME, _SOCKETS, _EXCHANGE, _SYSTEM,
)  # fmt: skip

_BY_MACHINE = {"x86_64": "arch_prctl modify_ldt"}

# The calls these capabilities are about: the kernel checks again, so a call let through here still needs the right one.
_BY_CAPABILITY = {
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYSLOG": "syslog",
    "CAP_SYS_ADMIN": """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
        lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl
        quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare
    """,
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
}

# include/uapi/linux/sched.h: CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_CLONE_NAMESPACES = 0x7E020000

# include/linux/socket.h: families without namespaces, without maintainers, or (vsock) with a way to the machine's
# host: DECnet, Econet, ATM SVC, IrDA, Wanpipe, mISDN, CAIF, ALG, vsock. Those above MCTP do not exist.
_REFUSED_FAMILIES = (12, 19, 20, 23, 25, 34, 37, 38, 40)
_AF_MCTP = 45

# include/uapi/linux/personality.h: PER_LINUX, PER_LINUX32, UNAME26, both, and "only ask". ADDR_NO_RANDOMIZE and
# READ_IMPLIES_EXEC are not among them.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)


def build(context: Context) -> Profile:
    """Return the default profile for these capabilities on this machine."""
    return Profile(
        default=_REFUSED, machines=COMPATIBLE[context.machine], rules=(*_unconditional(context), *_conditional(context))
    )


def _unconditional(context: Context) -> list[Rule]:
    names = " ".join((*_ALWAYS, _BY_MACHINE.get(context.machine, ""))).split()
    for capability, more in _BY_CAPABILITY.items():
        if capability in context.capabilities:
            names += more.split()
    return [Rule(tuple(names), SECCOMP_RET_ALLOW)]


def _conditional(context: Context) -> list[Rule]:
    rules = [
        Rule(("personality",), SECCOMP_RET_ALLOW, (Condition(0, "==", value, LOW_WORD),)) for value in _PERSONALITIES
    ]
    # By the low word: socket(2) takes an int, and a family with bits above it would slip through a refusal of 64 bits.
    rules += [Rule(("socket",), _REFUSED, (Condition(0, "==", family, LOW_WORD),)) for family in _REFUSED_FAMILIES]
    rules.append(Rule(("socket",), SECCOMP_RET_ALLOW, (Condition(0, "<=", _AF_MCTP, LOW_WORD),)))
    if "CAP_SYS_ADMIN" not in context.capabilities:
        rules += [
            Rule(("clone",), SECCOMP_RET_ALLOW, (Condition(0, "==", 0, _CLONE_NAMESPACES),)),
            # Its flags are reached by a pointer, out of a filter's reach; ENOSYS makes C libraries use clone.
            Rule(("clone3",), _UNKNOWN),
        ]
    return rules

"""The only home of ctypes, ioctl and raw system calls: thin functions with kernel names, public to drivers.

Every function raises a plain `OSError`: the kernel's words in `strerror`, the object's name in `filename`.
Paths are `str` or `bytes`, `dirfd` is an `int` (`files.AT_FDCWD` for the current directory).
Nothing is imported here, so that a process pays only for the submodules it uses.
"""

__all__ = [
    "addresses",
    "attributes",
    "bpf",
    "btrfs",
    "capabilities",
    "credentials",
    "extents",
    "files",
    "fuse",
    "inotify",
    "keyring",
    "libc",
    "links",
    "loop",
    "machine",
    "mount",
    "mountinfo",
    "netlink",
    "netns",
    "pagecache",
    "ports",
    "process",
    "rlimits",
    "rtnetlink",
    "sysctl",
    "threads",
    "tty",
    "uts",
]

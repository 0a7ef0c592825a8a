"""What goes into the images made of this machine's own files: `base`, `python`, or programs by path."""

from __future__ import annotations

import os
import re
import stat
import sys
import sysconfig
from typing import TYPE_CHECKING

from plugengine.errors import NotFoundError, UsageError
from plugengine.images.sources.host.tree import HostTree, Node

if TYPE_CHECKING:
    from typing import Any

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

_SHELLS = "sh bash dash"
# The programs of coreutils 9; the Debian package splits off none of them.
_COREUTILS = (
    "[ arch b2sum base32 base64 basename basenc cat chgrp chmod chown chroot cksum comm cp csplit cut date dd df dir "
    "dircolors dirname du echo env expand expr factor false fmt fold groups head hostid id install join link ln "
    "logname ls md5sum mkdir mkfifo mknod mktemp mv nice nl nohup nproc numfmt od paste pathchk pinky pr printenv "
    "printf ptx pwd readlink realpath rm rmdir runcon seq sha1sum sha224sum sha256sum sha384sum sha512sum shred shuf "
    "sleep sort split stat stdbuf stty sum sync tac tail tee test timeout touch tr true truncate tsort tty uname "
    "unexpand uniq unlink users vdir wc who whoami yes"
)
_SMALL_TOOLS = (
    "awk bunzip2 bzip2 clear cmp diff egrep fgrep file find findmnt flock free gawk getent getopt grep gunzip gzip "
    "hexdump hostname ip kill less lsblk mawk more mount nc netstat nsenter pgrep ping pkill ps pwdx sed setpriv "
    "setsid ss su sysctl tar top tput ulimit umount unshare unxz uptime vi watch wget which xargs xz zcat zstd"
)
_TERMINALS = ("l/linux", "v/vt100", "x/xterm", "x/xterm-256color", "s/screen", "s/screen-256color", "d/dumb", "a/ansi")
_TERMINFO = ("/lib/terminfo", "/usr/share/terminfo", "/etc/terminfo")
# Asked for by name at run time, so no header tells: name service modules of old C libraries, pthread_cancel's unwinder.
_LOADED_LATE = ("libnss_files.so.2", "libnss_dns.so.2", "libgcc_s.so.1")
_USR_MERGE = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")

_USERS = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
mail:x:8:8:mail:/var/mail:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
_GROUP = """\
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
www-data:x:33:
users:x:100:
nogroup:x:65534:
"""
_NSSWITCH = """\
passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
"""
_ETC = {
    "passwd": _USERS,
    "group": _GROUP,
    "nsswitch.conf": _NSSWITCH,
    "hostname": "localhost\n",
    "hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "resolv.conf": "",
}
_ETC_COPIED = ("/etc/os-release", "/etc/services", "/etc/protocols", _CERTIFICATES)
_DIRECTORIES = {
    "/dev": 0o755, "/etc": 0o755, "/home": 0o755, "/mnt": 0o755, "/opt": 0o755, "/proc": 0o555, "/root": 0o700,
    "/run": 0o755, "/sys": 0o555, "/tmp": 0o1777, "/usr/local/bin": 0o755, "/usr/local/lib": 0o755,  # noqa: S108
    "/var/cache": 0o755, "/var/lib": 0o755, "/var/log": 0o755, "/var/tmp": 0o1777,  # noqa: S108
}  # fmt: skip

# Parts of the standard library that only its developers, or a graphical screen, need.
_STDLIB_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "turtledemo", "tkinter"}
)
_STDLIB_LEFT_OUT_FILES = re.compile(r"\.(a|o|opt-[12]\.pyc)$|^_tkinter\.|^_test|^_ctypes_test|^xxlimited|^turtle\.py$")


def base() -> tuple[HostTree, dict[str, Any]]:
    """Plan `host:base`: the shell, coreutils and the usual small tools, as far as this machine has them."""
    tree = _skeleton()
    found = {name for name in f"{_SHELLS} {_COREUTILS} {_SMALL_TOOLS}".split() if tree.add_named_program(name)}
    if "sh" not in found:
        raise NotFoundError("image host:base: this machine has no shell called sh in the usual places")
    _add_terminals(tree)
    return tree, _config(["bash" if "bash" in found else "sh"])


def python() -> tuple[HostTree, dict[str, Any]]:
    """Plan `host:python`: the base, the interpreter that runs this, and its standard library."""
    tree, _ = base()
    executable = os.path.realpath(sys.executable or "/proc/self/exe")
    home = sys.base_prefix
    prefix = home if home in ("/usr", "/usr/local") else "/usr/local"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    tree.watch(executable)
    tree.copy(executable, f"{prefix}/bin/{version}", os.stat(executable))
    for name in ("python3", "python"):
        tree.link(f"{prefix}/bin/{name}", version)
    tree.add_needs(executable)
    for name in ("stdlib", "platstdlib"):
        directory = sysconfig.get_path(name, vars={"base": home, "platbase": home, "installed_base": home})
        _add_stdlib(tree, directory, home, prefix)
    _move_home(tree, home, prefix)
    return tree, _config(["python3"])


def programs(paths: list[str]) -> tuple[HostTree, dict[str, Any]]:
    """Plan `host:<path>,…`: these programs; the first one is what runs by default."""
    for path in paths:
        if not path.startswith("/"):
            raise UsageError(f"image host:{','.join(paths)}: {path!r} is no absolute path", hint=_HINT)
        if not os.path.isfile(path):
            raise NotFoundError(f"image host:{','.join(paths)}: no file {path} on this machine")
        if not os.access(path, os.X_OK):
            raise UsageError(f"image host:{','.join(paths)}: {path} is not executable")
    tree = _skeleton()
    for path in paths:
        tree.add_program(os.path.normpath(path) if ".." not in path else path)
    return tree, _config([paths[0]])


_HINT = "host:base, host:python, or host: and absolute paths of programs, separated by commas"


def _skeleton() -> HostTree:
    tree = HostTree()
    for name in _USR_MERGE:
        if os.path.islink(f"/{name}"):
            tree.add_path(f"/{name}")
    for path, mode in _DIRECTORIES.items():
        tree.directory(path, mode=mode)
    tree.link("/var/run", "/run")
    for name, content in _ETC.items():
        tree.write(f"/etc/{name}", content)
    for path in _ETC_COPIED:
        if tree.watch(path) is not None:
            tree.add_path(path)
    for directory in _library_directories():
        for name in _LOADED_LATE:
            if os.path.exists(f"{directory}/{name}"):
                tree.add_path(f"{directory}/{name}")
    return tree


def _library_directories() -> list[str]:
    """Return where this machine's C library lives."""
    import platform

    machine = platform.machine()
    places = (f"/lib/{machine}-linux-gnu", "/lib64", "/lib")
    return [place for place in places if os.path.exists(f"{place}/libc.so.6")][:1]


def _add_terminals(tree: HostTree) -> None:
    for directory in _TERMINFO:
        for name in _TERMINALS:
            if os.path.exists(f"{directory}/{name}"):
                tree.add_path(f"{directory}/{name}")


def _config(command: list[str]) -> dict[str, Any]:
    env = [f"PATH={PATH}"]
    if os.path.exists(_CERTIFICATES):
        env.append(f"SSL_CERT_FILE={_CERTIFICATES}")  # where OpenSSL looks differs from build to build
    return {"Cmd": command, "Env": env, "WorkingDir": "/"}


def _moved(path: str, home: str, prefix: str) -> str:
    return prefix + path[len(home) :] if path.startswith(f"{home}/") else path


def _move_home(tree: HostTree, home: str, prefix: str) -> None:
    """Move what was added from the interpreter's own prefix; its libraries are named where the loader looks.

    Run paths into the old prefix lead nowhere in the guest, those that begin with $ORIGIN still work.
    """
    if prefix == home:
        return
    for path in [path for path in tree.nodes if path.startswith(f"{home}/")]:
        node, target = tree.nodes.pop(path), _moved(path, home, prefix)
        tree.nodes.setdefault(target, node if node.link is None else Node(link=_moved(node.link, home, prefix)))
        if ".so" in os.path.basename(path):
            tree.add_library_name(os.path.basename(path), target)


def _add_stdlib(tree: HostTree, directory: str, home: str, prefix: str) -> None:
    """Add the modules; only the directories are watched: a package manager replaces files, which changes those."""
    tree.watch(directory)
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            target = _moved(entry.path, home, prefix)
            if entry.is_dir():
                if entry.name not in _STDLIB_LEFT_OUT and not entry.name.startswith("config-"):
                    _add_stdlib(tree, entry.path, home, prefix)
            elif target not in tree.nodes and not _STDLIB_LEFT_OUT_FILES.search(entry.name):
                _add_module(tree, entry.path, target)


def _add_module(tree: HostTree, path: str, target: str) -> None:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        return
    # An extension whose library this machine lacks could not be imported here either.
    if ".so" not in os.path.basename(path) or tree.add_needs(path, required=False):
        tree.copy(os.path.realpath(path), target, found)

"""What must be equal for a command to run in another process: code, namespaces, cgroup, limits, privileges.

Imported before anything else by every `pe`, so it imports only what the interpreter has loaded already.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

RUN_ROOT_VARIABLE = "PLUGENGINE_RUN_ROOT"
DEFAULT_RUN_ROOT = "/run/plugengine"
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_STATUS = (b"Uid:", b"Gid:", b"Groups:", b"Cap", b"NoNewPrivs:", b"Seccomp:", b"Cpus_allowed_list:")


def current(environ: Mapping[str, str]) -> bytes:
    """Return everything about this process that a command could notice, one fact a line."""
    facts = [f"{sys.version} {sys.executable} {sys.prefix} {sys.flags} {os.nice(0)}".encode()]
    for directory in sys.path[1:]:  # the first one is where the script is; installing changes the others
        try:
            facts.append(f"{directory} {os.stat(directory).st_mtime_ns}".encode(errors="surrogateescape"))
        except OSError:
            continue
    for name in _NAMESPACES:
        try:
            facts.append(os.readlink(f"/proc/self/ns/{name}").encode())
        except OSError:
            continue
    facts.append(os.readlink("/proc/self/root").encode(errors="surrogateescape"))
    facts += [_read("/proc/self/cgroup"), _read("/proc/self/limits"), _read("/proc/self/oom_score_adj")]
    facts += [line for line in _read("/proc/self/status").splitlines() if line.startswith(_STATUS)]
    facts += sorted(
        f"{name}={value}".encode(errors="surrogateescape")
        for name, value in environ.items()
        if name.startswith("PYTHON")
    )
    return b"\n".join(facts)


def run_root(argv: list[str], environ: Mapping[str, str]) -> str:
    """Return the run root a command line is about, without parsing the rest of it."""
    for position, word in enumerate(argv):
        if word == "--run-root" and position + 1 < len(argv):
            return argv[position + 1]
        if word.startswith("--run-root="):
            return word.partition("=")[2]
        if not word.startswith("-") and (position == 0 or argv[position - 1] != "--root"):
            break  # the command's name: what follows is its own
    return environ.get(RUN_ROOT_VARIABLE) or DEFAULT_RUN_ROOT


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)

"""Give a container its system call filter, compiled once and kept on disk."""

from __future__ import annotations

import os
from binascii import crc32
from struct import Struct

from plugengine.kernel.libc import MACHINE
from plugengine.kernel.machine import kernel_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.model import HostPath
    from plugengine.security.seccomp_profile import Profile

DEFAULT = "default"
UNCONFINED = "unconfined"

# Raised whenever the same profile compiles to another program; a test compares.
VERSION = 1

_MAGIC = b"pe-bpf\0\0"
_HEADER = Struct("<8sIIII")  # magic, version, bytes of the key, bytes of the program, checksum of both
_MODE = 0o600
_DIRECTORY_MODE = 0o700


def program(profile: str, capabilities: int, cache_dir: HostPath) -> bytes | None:
    """Return the filter as an array of struct sock_filter for `seccomp_set_filter`; None: no filter.

    Neither JSON nor the compiler is touched when the program is in the cache; a cache that can't be read or written is
    done without.

    Args:
        profile: "default", "unconfined", or the JSON text of a profile.
        capabilities: The bounding set of the container; docker's format makes rules depend on it.
        cache_dir: Directory of compiled programs, made if missing, for root only.

    Raises:
        UsageError: The text is no profile.
        NotSupportedError: The profile, or any filter on this machine, can't be had.
    """
    if profile == UNCONFINED:
        return None
    major, minor = kernel_version()
    key = f"{MACHINE} {major}.{minor} {capabilities:x}\n{profile}".encode()
    path = os.path.join(cache_dir, f"{crc32(key):08x}.bpf")
    found = _load(path, key)
    if found is None:
        from plugengine.security.capabilities import names

        found = compile_profile(profile, names(capabilities), MACHINE)
        _store(path, key, found)
    return found


def compile_profile(profile: str, capabilities: frozenset[str], machine: str) -> bytes:
    """Compile "default" or the JSON text of a profile, for a set of CAP_ names and "x86_64" or "aarch64"."""
    from plugengine.security import seccomp_compiler

    return seccomp_compiler.compile_program(read_profile(profile, capabilities, machine))


def read_profile(profile: str, capabilities: frozenset[str], machine: str) -> Profile:
    """Return the rules of "default" or of the JSON text of a profile, as they are for these capabilities.

    Raises:
        UsageError: The text is no profile.
        NotSupportedError: There is no table of system calls for this machine.
    """
    from plugengine.errors import NotSupportedError
    from plugengine.security import seccomp_default, seccomp_json
    from plugengine.security.seccomp_profile import COMPATIBLE, Context

    if machine not in COMPATIBLE:
        raise NotSupportedError(
            f"seccomp profile: no table of system calls for {machine}",
            hint="--security-opt seccomp=unconfined runs the container without a filter",
        )
    context = Context(capabilities, machine, kernel_version())
    return seccomp_default.build(context) if profile == DEFAULT else seccomp_json.parse(profile, context)


def _load(path: str, key: bytes) -> bytes | None:
    """Return the program, unless the file is missing, of another version, for another key, or damaged."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        content = os.read(fd, os.fstat(fd).st_size)
    except OSError:
        return None
    finally:
        os.close(fd)
    if len(content) < _HEADER.size:
        return None
    magic, version, key_bytes, program_bytes, checksum = _HEADER.unpack_from(content)
    body = content[_HEADER.size :]
    intact = len(body) == key_bytes + program_bytes and crc32(body) == checksum
    if magic != _MAGIC or version != VERSION or not intact or body[:key_bytes] != key:
        return None
    return body[key_bytes:]


def _store(path: str, key: bytes, compiled: bytes) -> None:
    """Write the file under a temporary name first; a torn one is told by its checksum, so nothing is synced."""
    body = key + compiled
    content = _HEADER.pack(_MAGIC, VERSION, len(key), len(compiled), crc32(body)) + body
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), _DIRECTORY_MODE, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        try:
            whole = os.write(fd, content) == len(content)
        finally:
            os.close(fd)
        if whole:
            os.replace(temporary, path)
        else:
            os.unlink(temporary)
    except OSError:
        return

"""Build the tar of a small root filesystem from this machine's own programs."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from pathlib import Path

PROGRAMS = ("true", "echo", "sh")
# ldd prints "libc.so.6 => /lib/… (0x…)" and "/lib64/ld-linux-x86-64.so.2 (0x…)"; see ldd(1).
LIBRARY = re.compile(r"(/\S+) \(0x[0-9a-f]+\)")


def build(target: Path) -> None:
    """Write a root filesystem with true, echo, sh and their libraries to the tar `target`."""
    with tarfile.open(target, "w") as archive:
        for directory in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        libraries: set[str] = set()
        for name in PROGRAMS:
            program = shutil.which(name, path="/usr/bin:/bin")
            if program is None:
                raise FileNotFoundError(f"program {name}, in /usr/bin and /bin, not found")
            _add(archive, program, f"bin/{name}")
            libraries |= libraries_of(program)
        for library in sorted(libraries):
            _add(archive, library, library.lstrip("/"))


def libraries_of(program: str) -> set[str]:
    """Return the shared libraries and the loader that `program` needs."""
    listing = subprocess.run(["ldd", program], check=True, capture_output=True, text=True)
    return set(LIBRARY.findall(listing.stdout))


def _add(archive: tarfile.TarFile, source: str, name: str) -> None:
    path = Path(source).resolve()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = path.stat().st_size, 0o755
    with path.open("rb") as stream:
        archive.addfile(entry, stream)

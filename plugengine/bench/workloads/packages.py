"""Write a Debian package; see deb(5) and ar(5)."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from typing import Final

from plugengine.model import HostPath

_MAGIC: Final = b"!<arch>\n"
_VERSION: Final = b"2.0\n"
_CONTROL: Final = (
    "Package: bench-sources\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n"
    "Description: files to be installed\n"
)


def write_package(path: str, tree: HostPath) -> None:
    """Write a package whose files are those of a tree, below /opt/bench; the same tree gives the same bytes."""
    members = {
        "debian-binary": _VERSION,
        "control.tar.gz": _packed(lambda archive: _add_text(archive, "./control", _CONTROL)),
        "data.tar.gz": _packed(lambda archive: _fill_data(archive, tree)),
    }
    with open(path, "wb") as stream:
        stream.write(_MAGIC)
        for name, content in members.items():
            stream.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode("ascii"))
            stream.write(content + b"\n" * (len(content) % 2))


def _packed(fill: Callable[[tarfile.TarFile], object]) -> bytes:
    memory = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=memory, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        fill(archive)
    return memory.getvalue()


def _fill_data(archive: tarfile.TarFile, tree: HostPath) -> None:
    for name in ("./", "./opt/"):
        directory = tarfile.TarInfo(name)
        directory.type = tarfile.DIRTYPE
        directory.mode = 0o755
        archive.addfile(directory)
    archive.add(tree, "./opt/bench", filter=plain)


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(text)
    archive.addfile(member, io.BytesIO(text.encode("ascii")))


def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return a member of an archive without what depends on who made the file, and when."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = 0
    return member

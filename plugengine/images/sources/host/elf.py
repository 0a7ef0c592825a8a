"""Read what a program needs from its ELF headers; nothing is run (ldd would); see elf(5), ld.so(8).

Why this is not a library's work is in docs/decisions/0052-libraries-not-taken.md.
"""

from __future__ import annotations

import os
import struct

from msgspec import Struct

MAGIC = b"\x7fELF"

# elf.h
EI_CLASS, EI_DATA = 4, 5
ELFCLASS32, ELFCLASS64 = 1, 2
ELFDATA2LSB, ELFDATA2MSB = 1, 2
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NULL, DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_RPATH, DT_RUNPATH = 0, 1, 5, 10, 15, 29

# Elf32_Ehdr and Elf64_Ehdr after e_ident: type machine version entry phoff shoff flags ehsize phentsize phnum
_HEADER = {ELFCLASS32: "HHIIIIIHHH", ELFCLASS64: "HHIQQQIHHH"}
_SEGMENT = {ELFCLASS32: "IIIIIIII", ELFCLASS64: "IIQQQQQQ"}
_DYNAMIC = {ELFCLASS32: "iI", ELFCLASS64: "qQ"}
_IDENT_BYTES = 16
_MAX_SEGMENTS = 1024
_MAX_TABLE_BYTES = 16 << 20
_MAX_INTERP_BYTES = 4096


class Elf(Struct, frozen=True):
    """What the dynamic loader reads of one file."""

    kind: tuple[int, int, int]  # class, byte order, machine: libraries must have the same
    interpreter: str | None
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]


class _Segment(Struct, frozen=True):
    type: int
    offset: int
    address: int
    size: int


def read_elf(path: str) -> Elf | None:
    """Parse a file; None when it is no ELF file, or a damaged one."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        ident = os.pread(fd, _IDENT_BYTES, 0)
        return _parse(fd, ident) if ident.startswith(MAGIC) and len(ident) == _IDENT_BYTES else None
    except (struct.error, ValueError, OverflowError):
        return None
    finally:
        os.close(fd)


def _parse(fd: int, ident: bytes) -> Elf:
    elf_class, data = ident[EI_CLASS], ident[EI_DATA]
    order = {ELFDATA2LSB: "<", ELFDATA2MSB: ">"}.get(data)
    if order is None or elf_class not in _HEADER:
        raise ValueError("unknown class or byte order")
    header = struct.Struct(order + _HEADER[elf_class])
    _, machine, _, _, phoff, _, _, _, phentsize, phnum = header.unpack(os.pread(fd, header.size, _IDENT_BYTES))
    if phnum > _MAX_SEGMENTS:
        raise ValueError("too many program headers")
    segments = [_segment(fd, order, elf_class, phoff + number * phentsize) for number in range(phnum)]
    strings, entries = _dynamic(fd, order, elf_class, segments)
    return Elf(
        kind=(elf_class, data, machine),
        interpreter=_interpreter(fd, segments),
        needed=tuple(_string(strings, value) for tag, value in entries if tag == DT_NEEDED),
        rpath=_paths(strings, entries, DT_RPATH),
        runpath=_paths(strings, entries, DT_RUNPATH),
    )


def _segment(fd: int, order: str, elf_class: int, offset: int) -> _Segment:
    layout = struct.Struct(order + _SEGMENT[elf_class])
    fields = layout.unpack(os.pread(fd, layout.size, offset))
    if elf_class == ELFCLASS64:
        kind, _, at, address, _, size, _, _ = fields
    else:
        kind, at, address, _, size, _, _, _ = fields
    return _Segment(kind, at, address, size)


def _interpreter(fd: int, segments: list[_Segment]) -> str | None:
    for segment in segments:
        if segment.type == PT_INTERP:
            path = os.pread(fd, min(segment.size, _MAX_INTERP_BYTES), segment.offset)
            return path.rstrip(b"\0").decode()
    return None


def _dynamic(fd: int, order: str, elf_class: int, segments: list[_Segment]) -> tuple[bytes, list[tuple[int, int]]]:
    """Return the string table and the entries of the dynamic section; both empty in a static program."""
    found = next((segment for segment in segments if segment.type == PT_DYNAMIC), None)
    if found is None:
        return b"", []
    layout = struct.Struct(order + _DYNAMIC[elf_class])
    content = os.pread(fd, min(found.size, _MAX_TABLE_BYTES), found.offset)
    entries: list[tuple[int, int]] = []
    for tag, value in layout.iter_unpack(content[: len(content) // layout.size * layout.size]):
        if tag == DT_NULL:
            break
        entries.append((tag, value))
    values = dict(entries)
    offset = _offset_of(segments, values[DT_STRTAB]) if DT_STRTAB in values else 0
    return os.pread(fd, min(values.get(DT_STRSZ, 0), _MAX_TABLE_BYTES), offset), entries


def _offset_of(segments: list[_Segment], address: int) -> int:
    """The section names a memory address; the loadable segment that holds it says where in the file that is."""
    for segment in segments:
        if segment.type == PT_LOAD and segment.address <= address < segment.address + segment.size:
            return address - segment.address + segment.offset
    raise ValueError("string table outside of the file")


def _string(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode()


def _paths(strings: bytes, entries: list[tuple[int, int]], wanted: int) -> tuple[str, ...]:
    return tuple(path for tag, value in entries if tag == wanted for path in _string(strings, value).split(":") if path)

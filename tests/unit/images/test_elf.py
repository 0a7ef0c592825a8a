"""What programs need, as their headers say: our reader against pyelftools on this machine's programs, and on damage."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from plugengine.images.sources.host.elf import MAGIC, Elf, read_elf

PROGRAM = Path("/bin/sh").resolve()


def programs() -> list[str]:
    """Return some programs and libraries of this machine, large and small."""
    found = sorted(
        map(str, (*Path("/bin").iterdir(), *Path("/sbin").iterdir(), *Path("/lib").glob("*-linux-gnu/*.so*")))
    )
    elf = [path for path in found if os.path.isfile(path) and read_magic(path) == MAGIC]
    return elf[:: max(1, len(elf) // 60)]


def read_magic(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(len(MAGIC))


def by_pyelftools(path: str) -> tuple[str | None, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return interpreter, needed libraries, RPATH and RUNPATH."""
    interpreter = None
    found: dict[str, list[str]] = {"DT_NEEDED": [], "DT_RPATH": [], "DT_RUNPATH": []}
    members = {"DT_NEEDED": "needed", "DT_RPATH": "rpath", "DT_RUNPATH": "runpath"}
    with open(path, "rb") as file:
        for segment in ELFFile(file).iter_segments():
            if segment["p_type"] == "PT_INTERP":
                interpreter = segment.get_interp_name()
            elif segment["p_type"] == "PT_DYNAMIC":
                for tag in segment.iter_tags():
                    if tag.entry.d_tag in found:
                        found[tag.entry.d_tag].append(getattr(tag, members[tag.entry.d_tag]))
    paths = [
        tuple(part for text in found[tag] for part in text.split(":") if part) for tag in ("DT_RPATH", "DT_RUNPATH")
    ]
    return interpreter, tuple(found["DT_NEEDED"]), paths[0], paths[1]


def test_what_pyelftools_reads_is_read() -> None:
    found = programs()
    assert len(found) > 20
    for path in found:
        elf = read_elf(path)
        assert elf is not None, path
        assert (elf.interpreter, elf.needed, elf.rpath, elf.runpath) == by_pyelftools(path), path


def parsed(content: bytes) -> Elf | None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return read_elf(file.name)


@pytest.mark.parametrize(
    "content", [b"", b"#!/bin/sh\n", MAGIC, MAGIC + b"\2\1\1", MAGIC + b"\2\1" + b"\xff" * 58, MAGIC + b"\3\3" * 30]
)
def test_what_is_no_elf_file_or_a_truncated_one_is_nothing(content: bytes) -> None:
    assert parsed(content) is None


@given(st.integers(0, 1023), st.binary(min_size=1, max_size=16))
def test_any_damage_ends_in_headers_or_in_nothing(at: int, damage: bytes) -> None:
    content = bytearray(PROGRAM.read_bytes())
    content[at : at + len(damage)] = damage
    found = parsed(bytes(content))
    assert found is None or isinstance(found, Elf)

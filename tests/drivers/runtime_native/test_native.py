"""The machine code of `--init`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from plugengine_runtime_native.child import native

from tests.conftest import need, need_tool


def test_the_bytes_are_what_the_source_assembles_to(tmp_path: Path) -> None:
    machine = os.uname().machine
    need(None if machine in native.CODE else f"no machine code for {machine}")
    assembler, objcopy = need_tool("as"), need_tool("objcopy")
    source = Path(native.__file__).with_name(f"init_{machine}.S")
    subprocess.run([assembler, "-o", tmp_path / "init.o", source], check=True)
    subprocess.run([objcopy, "-O", "binary", "-j", ".text", tmp_path / "init.o", tmp_path / "init.bin"], check=True)
    assert (tmp_path / "init.bin").read_bytes() == native.CODE[machine]


@pytest.mark.parametrize("machine", sorted(native.CODE))
def test_every_machine_with_code_has_its_source_and_an_executable(machine: str) -> None:
    program = native.elf(machine)
    assert program is not None
    assert program.startswith(b"\x7fELF")
    assert program.endswith(native.CODE[machine])
    assert Path(native.__file__).with_name(f"init_{machine}.S").is_file()


def test_an_unknown_machine_has_none() -> None:
    assert native.elf("pdp11") is None


def test_the_open_program_is_sealed() -> None:
    fd = native.open_init(b"program")
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)

"""The tables of system calls agree with the headers of this machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from plugengine.security.syscalls import numbers
from tests.conftest import need, need_tool

HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", ()),
    "i386": ("/usr/include/x86_64-linux-gnu/asm/unistd_32.h", ()),
    "aarch64": (
        "/usr/include/asm-generic/unistd.h",
        # arch/arm64/include/uapi/asm/unistd.h
        ("NEW_STAT", "RENAMEAT", "SET_GET_RLIMIT", "SYS_CLONE3", "MEMFD_SECRET"),
    ),
}
# One is a count, the other a base for machines' own calls.
NO_CALLS = {"syscalls", "arch_specific_syscall"}


@pytest.mark.parametrize("machine", HEADERS)
def test_every_number_of_the_headers_is_in_the_table(machine: str, tmp_path: Path) -> None:
    compiler = need_tool("gcc")
    header, wanted = HEADERS[machine]
    need(None if Path(header).exists() else f"needs {header}")
    names = [name for name in re.findall(r"#define __NR_(\w+)", Path(header).read_text()) if name not in NO_CALLS]
    lines = [f"#define __ARCH_WANT_{word}" for word in wanted]
    lines += ["#include <stdio.h>", f'#include "{header}"', "int main(void) {"]
    for name in dict.fromkeys(names):
        lines += [f"#ifdef __NR_{name}", f'printf("{name} %d\\n", (int)(__NR_{name}));', "#endif"]
    source = tmp_path / "numbers.c"
    source.write_text("\n".join([*lines, "}", ""]))
    subprocess.run([compiler, "-o", tmp_path / "numbers", source], check=True)
    listed = subprocess.run([tmp_path / "numbers"], check=True, capture_output=True, text=True).stdout
    expected = {name: int(number) for name, number in (line.split() for line in listed.splitlines())}
    assert len(expected) > 300
    assert expected.items() <= numbers(machine).items()


@pytest.mark.parametrize("machine", HEADERS)
def test_no_number_has_two_names(machine: str) -> None:
    table = numbers(machine)
    assert len(set(table.values())) == len(table)


def test_an_unknown_machine_is_an_error() -> None:
    with pytest.raises(KeyError):
        numbers("m68k")

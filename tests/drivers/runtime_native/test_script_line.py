"""The `#!` line of a script, read as the kernel reads it; load_script in fs/binfmt_script.c."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plugengine_runtime_native.child.program import script_line

HEAD = 256


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"#!/bin/sh\n", [b"/bin/sh"]),
        (b"#! \t/bin/sh \t\n", [b"/bin/sh"]),
        (b"#!/bin/sh -e\n", [b"/bin/sh", b"-e"]),
        (b"#!/bin/sh\t-e  two words \n", [b"/bin/sh", b"-e  two words"]),
        (b"#!/bin/sh", [b"/bin/sh"]),
        (b"#!/bin/sh\0x\n", [b"/bin/sh"]),
        (b"#!/bin/sh -e\0x\n", [b"/bin/sh", b"-e"]),
        (b"#!/bin/sh \0x\n", [b"/bin/sh", b""]),
        (b"#!\n", None),
        (b"#! \t\n/bin/sh\n", None),
        (b"#!" + b" " * 300, None),
        (b"#!\0/bin/sh\n", None),
        (b"#!/" + b"x" * 300 + b"\n", None),
        (b"#!/x" + b" y" * 300 + b"\n", [b"/x", (b"y " * 125).strip()]),
    ],
)
def test_a_script_names_its_interpreter(head: bytes, words: list[bytes] | None) -> None:
    assert script_line(head[:HEAD]) == words


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([b" ", b"\t", b"\0", b"\n", b"-x", b"a" * 120, b"\xff"]), max_size=6))
def test_the_kernel_reads_it_alike(tmp_path: Path, parts: list[bytes]) -> None:
    """The interpreter is a program that shows its arguments, by a short name, to leave room for the rest."""
    shown = tmp_path / "i"
    if not shown.exists():
        shown.symlink_to("/bin/echo")
    head = b"#!" + os.fsencode(shown) + b"".join(parts)
    script = tmp_path / "script"
    script.write_bytes(head)
    script.chmod(0o755)
    words = script_line(head[:HEAD])
    if words is None:
        with pytest.raises(OSError, match="Exec format error"):
            subprocess.run([script], check=False)
    elif words[0] == os.fsencode(shown):
        done = subprocess.run([script], stdout=subprocess.PIPE, check=True)
        assert done.stdout == b" ".join([*words[1:], os.fsencode(script)]) + b"\n"

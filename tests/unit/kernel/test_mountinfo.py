"""The parser of mountinfo reads what proc_pid_mountinfo(5) describes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.kernel.mountinfo import MountEntry, mount_of, mounts_at_or_below, parse_mountinfo

PLAIN = b"36 35 98:0 /mnt1 /mnt2 rw,noatime - ext3 /dev/root rw,errors=continue\n"


def test_every_field_of_a_line_is_read() -> None:
    assert parse_mountinfo(PLAIN) == [
        MountEntry(
            mount_id=36,
            parent_id=35,
            major_minor=(98, 0),
            root="/mnt1",
            mount_point="/mnt2",
            options=("rw", "noatime"),
            propagation=(),
            fstype="ext3",
            source="/dev/root",
            super_options=("rw", "errors=continue"),
        )
    ]


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"shared:2", ("shared:2",)),
        (b"shared:1 master:7", ("shared:1", "master:7")),
        (b"master:1 propagate_from:2", ("master:1", "propagate_from:2")),
        (b"unbindable", ("unbindable",)),
    ],
)
def test_any_number_of_optional_fields_is_read(field: bytes, expected: tuple[str, ...]) -> None:
    (entry,) = parse_mountinfo(PLAIN.replace(b" - ", b" " + field + b" - "))
    assert entry.propagation == expected


@pytest.mark.parametrize(
    ("escaped", "expected"),
    [
        (rb"/a\040b", "/a b"),
        (rb"/a\011b\012c", "/a\tb\nc"),
        (rb"/a\134040b", "/a\\040b"),
        (rb"/\043x", "/#x"),
        (b"/\xff\xc3\xa9", "/\udcffé"),
    ],
    ids=["space", "tab and newline", "backslash once only", "hash", "not utf-8"],
)
def test_octal_escapes_are_undone(escaped: bytes, expected: str) -> None:
    (entry,) = parse_mountinfo(PLAIN.replace(b"/mnt2", escaped))
    assert entry.mount_point == expected


def test_an_empty_source_is_kept() -> None:
    (entry,) = parse_mountinfo(b"25 24 0:23 / /x rw - tmpfs  rw\n")
    assert (entry.fstype, entry.source, entry.super_options) == ("tmpfs", "", ("rw",))


def test_an_escaped_comma_does_not_split_a_super_option() -> None:
    (entry,) = parse_mountinfo(rb"25 24 0:23 / /x rw - overlay o rw,lowerdir=/a\054b,upperdir=/u" + b"\n")
    assert entry.super_options == ("rw", "lowerdir=/a,b", "upperdir=/u")


@pytest.mark.parametrize("line", [b"36 35 98:0 / /x rw", b"x 35 98:0 / /x rw - a b c", b"1 2 3 / /x rw - a b c"])
def test_a_line_that_is_not_understood_is_quoted(line: bytes) -> None:
    with pytest.raises(ValueError, match="not understood") as caught:
        parse_mountinfo(line)
    assert repr(line) in str(caught.value)


def test_mounts_below_a_directory_come_in_the_order_to_unmount_them() -> None:
    lines = [PLAIN.replace(b"/mnt2", point) for point in (b"/", b"/r", b"/r/a", b"/rest", b"/r/a/b", b"/r")]
    entries = parse_mountinfo(b"".join(lines))
    assert [entry.mount_point for entry in mounts_at_or_below(entries, "/r/")] == ["/r", "/r/a/b", "/r/a", "/r"]
    assert len(mounts_at_or_below(entries, "/")) == len(entries)


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_any_name_the_kernel_can_escape_comes_back(name: bytes) -> None:
    import os

    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in name)
    (entry,) = parse_mountinfo(PLAIN.replace(b"/mnt2", escaped))
    assert os.fsencode(entry.mount_point) == name


def test_a_file_lies_on_the_last_mount_over_it() -> None:
    found = mount_of("/proc/self/status")
    assert found is not None
    assert (found.fstype, found.mount_point) == ("proc", "/proc")
    with pytest.raises(FileNotFoundError):
        mount_of("/proc/nothing here")

"""The wire format, compared with the header of the machine the tests run on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from plugengine_fuse_union import protocol
from plugengine_fuse_union.protocol import Opcode
from plugengine_fuse_union.replies import decode_device, encode_device

from tests.conftest import need, need_tool

HEADER = Path("/usr/include/linux/fuse.h")

# Struct of ours: sizeof of theirs.
SIZES = {
    "IN_HEADER": "sizeof(struct fuse_in_header)",
    "OUT_HEADER": "sizeof(struct fuse_out_header)",
    "INIT_OUT": "sizeof(struct fuse_init_out)",
    "INIT_IN": "offsetof(struct fuse_init_in, flags2)",
    "ATTR": "sizeof(struct fuse_attr)",
    "ENTRY": "offsetof(struct fuse_entry_out, attr)",
    "ATTR_OUT": "offsetof(struct fuse_attr_out, attr)",
    "OPEN_OUT": "sizeof(struct fuse_open_out)",
    "GETATTR_IN": "sizeof(struct fuse_getattr_in)",
    "SETATTR_IN": "sizeof(struct fuse_setattr_in)",
    "OPEN_IN": "sizeof(struct fuse_open_in)",
    "CREATE_IN": "sizeof(struct fuse_create_in)",
    "MKNOD_IN": "sizeof(struct fuse_mknod_in)",
    "MKDIR_IN": "sizeof(struct fuse_mkdir_in)",
    "RENAME_IN": "sizeof(struct fuse_rename_in)",
    "RENAME2_IN": "sizeof(struct fuse_rename2_in)",
    "LINK_IN": "sizeof(struct fuse_link_in)",
    "READ_IN": "sizeof(struct fuse_read_in)",
    "WRITE_IN": "sizeof(struct fuse_write_in)",
    "WRITE_OUT": "sizeof(struct fuse_write_out)",
    "RELEASE_IN": "offsetof(struct fuse_release_in, release_flags)",
    "FSYNC_IN": "sizeof(struct fuse_fsync_in)",
    "SETXATTR_IN": "sizeof(struct fuse_setxattr_in)",
    "SETXATTR_IN_SHORT": "FUSE_COMPAT_SETXATTR_IN_SIZE",
    "GETXATTR_IN": "sizeof(struct fuse_getxattr_in)",
    "GETXATTR_OUT": "sizeof(struct fuse_getxattr_out)",
    "FALLOCATE_IN": "sizeof(struct fuse_fallocate_in)",
    "LSEEK_IN": "sizeof(struct fuse_lseek_in)",
    "LSEEK_OUT": "sizeof(struct fuse_lseek_out)",
    "COPY_FILE_RANGE_IN": "sizeof(struct fuse_copy_file_range_in)",
    "IOCTL_IN": "sizeof(struct fuse_ioctl_in)",
    "IOCTL_OUT": "sizeof(struct fuse_ioctl_out)",
    "FORGET_IN": "sizeof(struct fuse_forget_in)",
    "BATCH_FORGET_IN": "sizeof(struct fuse_batch_forget_in)",
    "FORGET_ONE": "sizeof(struct fuse_forget_one)",
    "STATFS_OUT": "sizeof(struct fuse_statfs_out)",
    "NOTIFY_INVAL_INODE_OUT": "sizeof(struct fuse_notify_inval_inode_out)",
    "DIRENT": "offsetof(struct fuse_dirent, name)",
}
OFFSETS = {
    "valid": 0,
    "fh": 8,
    "size": 16,
    "atime": 32,
    "mtime": 40,
    "atimensec": 56,
    "mtimensec": 60,
    "mode": 68,
    "uid": 76,
    "gid": 80,
}


def probe(directory: Path, *expressions: str) -> list[int]:
    """Return the values of C expressions."""
    compiler = need_tool("cc")
    need(None if HEADER.exists() else f"needs {HEADER}")
    lines = "".join(f'printf("%lld\\n", (long long)({expression}));\n' for expression in expressions)
    includes = "#include <stddef.h>\n#include <stdio.h>\n#include <linux/fuse.h>\n"
    (directory / "probe.c").write_text(f"{includes}int main(void) {{ {lines} return 0; }}\n")
    subprocess.run([compiler, "-o", str(directory / "probe"), str(directory / "probe.c")], check=True)
    output = subprocess.run([str(directory / "probe")], check=True, capture_output=True, text=True).stdout
    return [int(line) for line in output.split()]


def test_structs_have_the_sizes_of_the_header(tmp_path: Path) -> None:
    found = probe(tmp_path, *SIZES.values())
    assert {name: getattr(protocol, name).size for name in SIZES} == dict(zip(SIZES, found, strict=True))


def test_the_fields_of_setattr_are_where_the_header_has_them(tmp_path: Path) -> None:
    found = probe(tmp_path, *(f"offsetof(struct fuse_setattr_in, {name})" for name in OFFSETS))
    assert dict(zip(OFFSETS, found, strict=True)) == OFFSETS
    marked = bytearray(protocol.SETATTR_IN.size)
    marked[76:80] = (7).to_bytes(4, "little")
    assert protocol.SETATTR_IN.unpack(marked)[8] == 7


def test_numbers_are_those_of_the_header(tmp_path: Path) -> None:
    known = HEADER.read_text()
    names = [f"FUSE_{opcode.name}" for opcode in Opcode]
    names += [name for name in vars(protocol) if re.match(r"(FUSE|FATTR|FOPEN)_", name)]
    ours = {f"FUSE_{opcode.name}": opcode.value for opcode in Opcode} | vars(protocol)
    present = [name for name in names if re.search(rf"\b{name}\b\s*(=|\()|#define\s+{name}\s", known)]
    assert len(present) > 60
    found = dict(zip(present, probe(tmp_path, *present), strict=True))
    assert {name: ours[name] for name in present} == found


@pytest.mark.parametrize("number", [0x0103, 0x0FFF_FF, (8 << 20) | 1, (0xFFF << 8) | (0xFFFFF << 20 & 0xFFF00000)])
def test_device_numbers_survive_the_wire(number: int) -> None:
    assert encode_device(decode_device(number)) == number

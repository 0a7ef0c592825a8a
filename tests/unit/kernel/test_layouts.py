"""What plugengine.kernel says about the kernel's headers is what a C compiler reads in them."""

from __future__ import annotations

import ast
import ctypes
import importlib
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from plugengine.kernel import addresses, capabilities, fuse, libc, links, tty
from tests.conftest import need_tool

# Constants of our own, beside the kernel's.
OURS = {"CLOSE_RANGE_LAST", "KEEP_ID", "PERSONALITY_QUERY", "SOCK_FILTER_BYTES"}
# Younger than the headers of Debian 12 (Linux 6.1); compared wherever the headers know them.
YOUNG = {"MOVE_MOUNT_BENEATH"}

# What the headers of Debian 12 do not have yet, spelt as in Linux 6.9; the compiler computes the number.
BACKING_MAP = """
#ifndef FUSE_DEV_IOC_BACKING_OPEN
struct fuse_backing_map { int32_t fd; uint32_t flags; uint64_t padding; };
#define FUSE_DEV_IOC_BACKING_OPEN _IOW(FUSE_DEV_IOC_MAGIC, 1, struct fuse_backing_map)
#define FUSE_DEV_IOC_BACKING_CLOSE _IOW(FUSE_DEV_IOC_MAGIC, 2, uint32_t)
#endif
"""


@dataclass(frozen=True)
class Probe:
    module: str
    headers: str
    structs: dict[str, str] = field(default_factory=dict)
    enumerators: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    """Prefixes of the constants these headers are asked for; all of the module when empty."""
    without: tuple[str, ...] = ()
    extra: str = ""


PROBES = [
    Probe(
        "files",
        "fcntl.h linux/openat2.h linux/fs.h linux/close_range.h linux/magic.h sys/vfs.h",
        {"OpenHow": "struct open_how", "StatFs": "struct statfs"},
    ),
    Probe(
        "attributes",
        "fcntl.h sys/stat.h linux/fs.h linux/xattr.h",
        {
            "StatxBuffer": "struct statx",
            "StatxTimestamp": "struct statx_timestamp",
            "Timespec": "struct timespec",
        },
    ),
    Probe("inotify", "linux/inotify.h"),
    Probe(
        "mount",
        "fcntl.h linux/mount.h",
        {"MountAttr": "struct mount_attr"},
        enumerators=("FSCONFIG_",),
        without=("MNT_", "UMOUNT_"),
    ),
    Probe("mount", "sys/mount.h", only=("MNT_", "UMOUNT_")),
    Probe(
        "process",
        "linux/sched.h linux/prctl.h linux/pidfd.h signal.h",
        {"CloneArgs": "struct clone_args"},
    ),
    Probe(
        "credentials",
        "linux/prctl.h linux/securebits.h linux/capability.h linux/seccomp.h linux/filter.h sys/personality.h",
        {
            "CapHeader": "struct __user_cap_header_struct",
            "CapData": "struct __user_cap_data_struct",
            "SockFilter": "struct sock_filter",
            "SockFprog": "struct sock_fprog",
        },
        enumerators=("PER_", "ADDR_"),
    ),
    Probe("tty", "sys/ioctl.h"),
    Probe("links", "sys/socket.h linux/sockios.h linux/if.h", enumerators=("SOCK_",)),
    Probe(
        "netlink", "sys/socket.h linux/netlink.h", enumerators=("NLMSGERR_",), without=("NLA_TYPE_MASK",)
    ),  # C has it 32 bits wide
    Probe("addresses", "sys/socket.h linux/sockios.h linux/if.h linux/route.h"),
    Probe("fuse", "stdint.h sys/ioctl.h linux/fuse.h", extra=BACKING_MAP),
    Probe("bpf", "linux/bpf.h", enumerators=("BPF_PROG_", "BPF_CGROUP_")),
    Probe(
        "loop",
        "linux/loop.h",
        {"LoopInfo64": "struct loop_info64", "LoopConfig": "struct loop_config"},
        enumerators=("LO_FLAGS_",),
    ),
    Probe("btrfs", "linux/btrfs.h linux/btrfs_tree.h"),
    Probe("extents", "linux/fs.h linux/fiemap.h"),
]


def run_c(source: str, directory: Path) -> dict[str, int]:
    """Compile and run a program that prints "name number" lines."""
    compiler = need_tool("gcc")
    (directory / "probe.c").write_text(source)
    program = directory / "probe"
    options = ["-w", "-D_GNU_SOURCE", "-D__ARCH_WANT_SYS_CLONE3"]
    built = subprocess.run(
        [compiler, *options, "-o", program, directory / "probe.c"], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    return {name: int(number) for name, number in (line.rsplit(" ", 1) for line in lines)}


def c_program(headers: str, expressions: dict[str, str], *, macros: list[str] | None = None, extra: str = "") -> str:
    """Return a program that prints expressions, and macros where they are defined."""
    lines = [f"#include <{header}>" for header in ["stdio.h", "stddef.h", *headers.split()]]
    lines += [extra, "int main(void) {"]
    lines += [f'printf("{name} %lld\\n", (long long)({code}));' for name, code in expressions.items()]
    for name in macros or []:
        lines += [f"#ifdef {name}", f'printf("{name} %lld\\n", (long long)({name}));', "#endif"]
    return "\n".join([*lines, "return 0; }"])


def constants(probe: Probe) -> dict[str, int]:
    """Return the kernel constants a module defines itself."""
    module = importlib.import_module(f"plugengine.kernel.{probe.module}")
    tree = ast.parse(Path(str(module.__file__)).read_text())
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    names = {target.id for target in targets if isinstance(target, ast.Name)} - OURS
    return {
        name: value
        for name in sorted(names)
        if type(value := getattr(module, name)) is int
        and not name.startswith("_")
        and (not probe.only or name.startswith(probe.only))
        and not (probe.without and name.startswith(probe.without))
    }


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: f"{probe.module}-{probe.headers.split()[0]}")
def test_constants_equal_the_headers(probe: Probe, tmp_path: Path) -> None:
    ours = constants(probe)
    assert ours
    enumerators = [name for name in ours if probe.enumerators and name.startswith(probe.enumerators)]
    macros = [name for name in ours if name not in enumerators]
    program = c_program(probe.headers, {name: name for name in enumerators}, macros=macros, extra=probe.extra)
    theirs = run_c(program, tmp_path)
    assert {name: ours[name] for name in theirs} == theirs
    assert set(ours) - set(theirs) <= YOUNG


@pytest.mark.parametrize(
    ("module", "headers", "structure", "c_name"),
    [
        pytest.param(probe.module, probe.headers, python_name, c_name, id=python_name)
        for probe in PROBES
        for python_name, c_name in probe.structs.items()
    ],
)
def test_structures_have_the_size_and_offsets_of_the_headers(
    module: str, headers: str, structure: str, c_name: str, tmp_path: Path
) -> None:
    ours: type[ctypes.Structure] = getattr(importlib.import_module(f"plugengine.kernel.{module}"), structure)
    names = [name for name, *_ in ours._fields_ if not name.startswith("_")]
    expressions = {name: f"offsetof({c_name}, {name})" for name in names}
    theirs = run_c(c_program(headers, {"sizeof": f"sizeof({c_name})", **expressions}), tmp_path)
    assert {"sizeof": ctypes.sizeof(ours), **{name: getattr(ours, name).offset for name in names}} == theirs


@pytest.mark.parametrize(
    ("structure", "prefix"),
    [("ProgLoadAttr", ""), ("ProgAttachAttr", ""), ("ProgQueryAttr", "query."), ("GetFdByIdAttr", "")],
)
def test_the_parts_of_bpf_attr_lie_where_the_header_puts_them(structure: str, prefix: str, tmp_path: Path) -> None:
    ours: type[ctypes.Structure] = getattr(importlib.import_module("plugengine.kernel.bpf"), structure)
    names = [name for name, *_ in ours._fields_ if not name.startswith("_")]
    theirs = run_c(
        c_program("linux/bpf.h", {name: f"offsetof(union bpf_attr, {prefix}{name})" for name in names}), tmp_path
    )
    assert {name: getattr(ours, name).offset for name in names} == theirs


def test_packed_requests_have_the_size_of_their_c_structures(tmp_path: Path) -> None:
    headers = "stdint.h sys/ioctl.h linux/if.h linux/route.h linux/in.h linux/fuse.h"
    sizes = {
        "ifreq": "sizeof(struct ifreq)",
        "rtentry": "sizeof(struct rtentry)",
        "sockaddr_in": "sizeof(struct sockaddr_in)",
        "winsize": "sizeof(struct winsize)",
        "fuse_backing_map": "sizeof(struct fuse_backing_map)",
    }
    assert run_c(c_program(headers, sizes, extra=BACKING_MAP), tmp_path) == {
        "ifreq": links._IFREQ.size,
        "rtentry": addresses._RTENTRY.size,
        "sockaddr_in": addresses._SOCKADDR_IN.size,
        "winsize": tty._WINSIZE.size,
        "fuse_backing_map": fuse._BACKING_MAP.size,
    }


@pytest.mark.parametrize(("machine", "header"), [("x86_64", "asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")])
def test_system_call_numbers_equal_the_headers(machine: str, header: str, tmp_path: Path) -> None:
    if machine == "x86_64" and libc.MACHINE != "x86_64":
        header = "asm/unistd.h"
        machine = libc.MACHINE
    ours = libc._NUMBERS_BY_MACHINE[machine]
    theirs = run_c(c_program(header, {}, macros=[f"__NR_{name}" for name in ours]), tmp_path)
    assert {f"__NR_{name}": number for name, number in ours.items() if f"__NR_{name}" in theirs} == theirs
    assert len(ours) - len(theirs) <= len({"fchmodat2"})


def test_capability_numbers_equal_the_header(tmp_path: Path) -> None:
    theirs = run_c(
        c_program("linux/capability.h", {"CAP_LAST_CAP": "CAP_LAST_CAP"}, macros=list(capabilities.CAPABILITIES)),
        tmp_path,
    )
    assert theirs.pop("CAP_LAST_CAP") >= max(theirs.values())
    assert theirs == capabilities.CAPABILITIES

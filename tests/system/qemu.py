"""Boot a machine of our own in QEMU and run a program of this environment in it; software emulation will do.

The machine has Debian's kernel (`.ci/qemu-kernel`), no disk and no network: interpreter, standard library, wanted
packages and this checkout come in its initial RAM disk.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import need, need_tool

CHECKOUT = Path(__file__).resolve().parents[2]
GUEST_CHECKOUT = "/work"
_KERNEL_DIRECTORY = "PE_QEMU_KERNEL"
# Of the standard library and the packages; compiled modules stay, emulation compiles slowly.
_NO_NEED = {"ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tkinter", "turtledemo"}
_NO_NEED_SUFFIXES = (".a", ".opt-1.pyc", ".opt-2.pyc")
_PACKAGES = ("backports", "click", "iniconfig", "msgspec", "packaging", "pluggy", "plugengine-*.dist-info", "py.py",
             "pygments", "pyroute2", "pytest", "_pytest", "pytest_timeout.py")  # fmt: skip

INIT = """#!{interpreter}
import ctypes, json, os, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def mount(kind, target, options=None):
    os.makedirs(target, exist_ok=True)
    if libc.mount(kind.encode(), target.encode(), kind.encode(), 0, options) != 0:
        print("mount", target, os.strerror(ctypes.get_errno()))
# pivot_root(2) does not leave the kernel's first root, but a bind mount of it that hides it. MS_BIND, MS_MOVE
os.mkdir("/top")
libc.mount(b"/", b"/top", None, 4096, None)
os.chdir("/top")
libc.mount(b".", b"/", None, 8192, None)
os.chroot(".")
mount("proc", "/proc")
mount("sysfs", "/sys")
mount("devtmpfs", "/dev")
mount("tmpfs", "/tmp")
mount("tmpfs", "/run")
mount("tmpfs", "/dev/shm")
mount("cgroup2", "/sys/fs/cgroup")
task = json.load(open("/task.json"))
for module in task["modules"]:
    fd = os.open(module, os.O_RDONLY)
    if libc.syscall(313, fd, b"", 0) != 0:
        print("finit_module", module, os.strerror(ctypes.get_errno()))
    os.close(fd)
os.chdir(task["directory"])
null = subprocess.DEVNULL
done = subprocess.run(task["argv"], env=task["environ"], stdin=null, stderr=subprocess.STDOUT)
os.sync()
print("\\n{marker}", done.returncode, flush=True)
libc.reboot(0x1234567)
"""
_MARKER = "PE-QEMU-EXIT"


@dataclass(frozen=True)
class Outcome:
    """How a program in the machine ended, and all that came out of the serial line."""

    status: int
    output: str


def boot(
    argv: Sequence[str],
    scratch: Path,
    *,
    modules: Iterable[str] = (),
    programs: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    cmdline: str = "",
    memory_mib: int = 1024,
    processors: int = 2,
    timeout_s: float = 850,
) -> Outcome:
    """Boot, run `argv` in the checkout's directory, and switch off.

    Args:
        argv: Program and arguments; "python" stands for this interpreter.
        scratch: Directory for the RAM disk.
        modules: Kernel modules to load before, without what they depend on.
        programs: Programs of this machine, with the libraries they need.
        environ: More environment.
        cmdline: More for the kernel's command line.
        memory_mib: Size of the machine.
        processors: Number of them.
        timeout_s: When to give up.

    Raises:
        AssertionError: The machine never got to the end of the program; the message is its console.
    """
    need(None if os.uname().machine == "x86_64" else "boots an x86_64 machine")
    qemu = need_tool("qemu-system-x86_64")
    directory = Path(os.environ.get(_KERNEL_DIRECTORY, CHECKOUT / "build" / "qemu"))
    need(None if directory.joinpath(".complete").exists() else f"needs .ci/qemu-kernel {directory}")
    (kernel,) = directory.glob("boot/vmlinuz-*")
    interpreter = os.path.realpath(sys.executable)
    task = {
        "argv": [interpreter if word == "python" else word for word in argv],
        "directory": GUEST_CHECKOUT,
        "environ": _environ(environ or {}),
        "modules": [f"/modules/{path.name}" for path in _with_dependencies(directory, modules)],
    }
    archive = scratch / "initramfs"
    with archive.open("wb") as file:
        ram_disk = Archive(file)
        fill(ram_disk, interpreter, programs)
        for path in _with_dependencies(directory, modules):
            ram_disk.add_file(path, f"/modules/{path.name}")
        ram_disk.add("/task.json", stat.S_IFREG | 0o644, json.dumps(task).encode())
        ram_disk.close()
    command = [
        qemu, "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
        # Never KVM: where it is there it may be nested and half working, and the tests would differ between machines.
        "-accel", "tcg", "-cpu", "max",
        "-m", str(memory_mib), "-smp", str(processors), "-kernel", str(kernel), "-initrd", str(archive),
        "-append", f"console=ttyS0 quiet panic=-1 rdinit=/init {cmdline}",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout_s, check=False)
        output = (done.stdout + done.stderr).decode(errors="replace").replace("\r\n", "\n")
    except subprocess.TimeoutExpired as exc:
        output = (exc.stdout or b"").decode(errors="replace")
    found = re.search(rf"^{_MARKER} (-?\d+)$", output, re.MULTILINE)
    if not found:
        raise AssertionError(f"the machine did not reach the end:\n{output[-8000:]}")
    return Outcome(int(found[1]), output[: found.start()])


def _environ(more: Mapping[str, str]) -> dict[str, str]:
    drivers = sorted(path.name for path in CHECKOUT.joinpath("drivers").iterdir() if path.is_dir())
    return {
        "HOME": "/root",
        "NO_COLOR": "1",
        "LANG": "C.UTF-8",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": ":".join(
            [GUEST_CHECKOUT, *(f"{GUEST_CHECKOUT}/drivers/{name}" for name in drivers), "/site-packages"]
        ),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Plugins are not found without the packages' metadata, and nothing is to be kept for another run.
        "PYTEST_ADDOPTS": "-p pytest_timeout -p no:cacheprovider",
        **more,
    }


def fill(ram_disk: Archive, interpreter: str, programs: Iterable[str]) -> None:
    """Put programs, the interpreter's library, the packages and the checkout into a RAM disk, and the init program."""
    libraries = {interpreter, *programs}
    for program in libraries:
        ram_disk.add_file(Path(program), program)
    standard = Path(sysconfig.get_path("stdlib"))
    packages = Path(sysconfig.get_path("purelib"))
    for source, target in [
        (standard, str(standard)),
        *((path, f"/site-packages/{path.name}") for name in _PACKAGES for path in packages.glob(name)),
        *((CHECKOUT / name, f"{GUEST_CHECKOUT}/{name}") for name in ("plugengine", "drivers", "tests")),
    ]:
        for path, relative in tree(source):
            ram_disk.add_file(path, os.path.normpath(f"{target}/{relative}"))
            if path.suffix == ".so":
                libraries.add(str(path))
    ram_disk.add_file(CHECKOUT / "pyproject.toml", f"{GUEST_CHECKOUT}/pyproject.toml")
    ram_disk.add_file(Path("/etc/ld.so.cache"), "/etc/ld.so.cache")
    for library in needed_libraries(libraries):
        ram_disk.add_file(Path(library), library)
    init = INIT.format(interpreter=interpreter, marker=_MARKER)
    ram_disk.add("/init", stat.S_IFREG | 0o755, init.encode())


def tree(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the regular files below a directory with their relative names, without what no program here needs."""
    if root.is_file():
        yield root, "."
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name not in _NO_NEED]
        for name in files:
            path = Path(directory, name)
            if path.is_file() and not name.endswith(_NO_NEED_SUFFIXES):
                yield path, str(path.relative_to(root))


def needed_libraries(programs: Iterable[str]) -> list[str]:
    """Return the shared libraries of programs, as the loader of this machine finds them."""
    ldd = shutil.which("ldd")
    need(None if ldd else "needs ldd")
    listed = subprocess.run([ldd or "ldd", *sorted(programs)], capture_output=True, text=True, check=False).stdout
    return sorted(set(re.findall(r"(?:=> |^\s+)(/\S+)(?= \(0x)", listed, re.MULTILINE)))


def _with_dependencies(directory: Path, modules: Iterable[str]) -> list[Path]:
    """Return module files in the order of loading, by what each says it depends on in its .modinfo section."""
    files = {path.name.partition(".ko")[0].replace("-", "_"): path for path in directory.glob("lib/modules/**/*.ko*")}
    order: list[Path] = []

    def visit(name: str) -> None:
        path = files[name.replace("-", "_")]
        found = re.search(rb"\0depends=([^\0]*)", path.read_bytes())
        for other in found[1].decode().split(",") if found else ():
            if other:
                visit(other)
        if path not in order:
            order.append(path)

    for name in modules:
        visit(name)
    return order


class Archive:
    """A cpio archive as the kernel unpacks it; see Documentation/driver-api/early-userspace/buffer-format.rst."""

    def __init__(self, file: object) -> None:
        self._write = file.write  # type: ignore[attr-defined]
        self._number = 0
        self._directories = {"/"}

    def add_file(self, source: Path, name: str) -> None:
        """Add a file of this machine, with its missing directories."""
        found = source.stat()
        self.add(name, found.st_mode, source.read_bytes(), mtime=int(found.st_mtime))

    def add(self, name: str, mode: int, content: bytes, *, mtime: int = 0) -> None:
        """Add one entry; directories come before what is in them."""
        parent = os.path.dirname(name)
        if parent not in self._directories:
            self._directories.add(parent)
            self.add(parent, stat.S_IFDIR | 0o755, b"")
        self._number += 1
        encoded = name.lstrip("/").encode() + b"\0"
        fields = (self._number, mode, 0, 0, 1, mtime, len(content), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self._write(header + b"\0" * (-len(header) % 4) + content + b"\0" * (-len(content) % 4))

    def close(self) -> None:
        """Write the end."""
        self.add("/TRAILER!!!", 0, b"")

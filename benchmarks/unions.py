"""The filesystems compared: how each shows layers and an upper directory below one mount point."""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

from plugengine_fuse_union import server
from plugengine_fuse_union.connection import Connection
from plugengine_fuse_union.protocol import Opcode

from plugengine.kernel.mount import mount, umount2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plugengine_fuse_union.connection import Answer, Handler

OPCODES: Final = 64
COUNTER_BYTES: Final = 8


class Place:
    """Where one union lies: layers, and an upper directory of its own for every mount."""

    def __init__(self, layers: Sequence[Path], directory: Path) -> None:
        self.layers = list(layers)  # topmost first
        self.upper = directory / "upper"
        self.work = directory / "work"
        self.root = directory / "root"
        for path in (self.upper, self.work, self.root):
            path.mkdir(parents=True)

    def options(self) -> str:
        """Return mount data as the kernel's overlayfs and fuse-overlayfs read it."""
        # Relative to the directory of the layers: 120 absolute paths do not fit into one page of mount data.
        lowers = ":".join(layer.name for layer in self.layers)
        return f"lowerdir={lowers},upperdir={self.upper},workdir={self.work}"


class Union:
    """One way to show a union."""

    name = ""

    def unavailable(self) -> str | None:
        """Return why this one cannot run here."""
        return None

    def mount(self, place: Place) -> Path:
        """Mount and return the directory to work in."""
        raise NotImplementedError

    def unmount(self, place: Place) -> None:
        """Unmount."""
        umount2(str(place.root))

    def wait(self) -> None:
        """Wait until the server, if there is one of ours, has ended."""


class Plain(Union):
    """No union: a copy of the layers in a plain directory."""

    name = "plain"

    def mount(self, place: Place) -> Path:
        """Copy the layers, lowest first."""
        for layer in reversed(place.layers):
            subprocess.run(["cp", "-a", f"{layer}/.", str(place.root)], check=True)
        return place.root

    def unmount(self, place: Place) -> None:
        """Leave the copy to who removes the directory."""


class Overlay(Union):
    """The kernel's overlayfs."""

    name = "overlay"

    def mount(self, place: Place) -> Path:
        """Mount from the directory of the layers."""
        os.chdir(place.layers[0].parent)
        mount("overlay", str(place.root), "overlay", data=place.options())
        return place.root


class FuseOverlayfs(Union):
    """fuse-overlayfs as installed."""

    name = "fuse-overlayfs"

    def unavailable(self) -> str | None:
        """Look for the program."""
        return None if shutil.which("fuse-overlayfs") else "fuse-overlayfs is not installed"

    def mount(self, place: Place) -> Path:
        """Run the program, which goes into the background when it has mounted."""
        command = ["fuse-overlayfs", "-o", place.options(), str(place.root)]
        subprocess.run(command, check=True, cwd=place.layers[0].parent, stderr=subprocess.DEVNULL)
        return place.root


class FuseUnion(Union):
    """The driver of this project, its server forked from this warm process as from the engine's."""

    name = "fuse_union"

    def __init__(self, *, count: bool = False, durable: bool = True) -> None:
        """Choose how to serve; `count` makes `requests` tell what the kernel asked for."""
        self._durable = durable
        self._pid = 0
        self._counts = mmap.mmap(-1, OPCODES * COUNTER_BYTES) if count else None

    def mount(self, place: Place) -> Path:
        """Fork a server and wait until it has mounted."""
        ready, tell = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(ready)
            self._serve(place, tell)
        os.close(tell)
        with open(ready, "rb") as stream:
            if stream.read(1) != b"+":
                raise RuntimeError(f"fuse_union did not mount on {place.root}")
        return place.root

    def _serve(self, place: Place, tell: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._counts is not None:
            setattr(server, "Connection", counting(self._counts))  # noqa: B010 - this process only serves
        config = {
            "lowers": [str(layer) for layer in place.layers],
            "upper": str(place.upper),
            "work": str(place.work),
            "target": str(place.root),
            "durable": self._durable,
        }
        code = 1
        try:
            code = server.serve(config, lambda: _tell(tell))
        except BaseException:  # noqa: BLE001 - a forked process must not go on as the benchmark
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> None:
        """Collect the server."""
        pid, self._pid = self._pid, 0
        status = os.waitpid(pid, 0)[1]
        if status != 0:
            raise RuntimeError(f"fuse_union's server ended with status {status}")

    def requests(self) -> dict[str, int]:
        """Return the requests since the last call, by name, and start again from zero."""
        if self._counts is None:
            return {}
        view = memoryview(self._counts).cast("Q")
        found = {_opcode_name(number): count for number, count in enumerate(view) if count}
        for number in range(OPCODES):
            view[number] = 0
        view.release()
        return found


def _tell(fd: int) -> None:
    os.write(fd, b"+")
    os.close(fd)


def _opcode_name(number: int) -> str:
    try:
        return Opcode(number).name
    except ValueError:
        return str(number)


def counting(memory: mmap.mmap) -> type[Connection]:
    """Return a connection that counts the requests it has handlers for, in memory shared with the parent."""
    view = memoryview(memory).cast("Q")

    class Counting(Connection):
        def register(self, handlers: dict[Opcode, Handler]) -> None:
            super().register({opcode: _counted(view, opcode, handler) for opcode, handler in handlers.items()})

    return Counting


def _counted(view: memoryview[int], opcode: Opcode, handler: Handler) -> Callable[[int, int], Answer]:
    def call(nodeid: int, end: int) -> Answer:
        view[opcode] += 1
        return handler(nodeid, end)

    return call


class FuseUnionVolatile(FuseUnion):
    """The same with `fsync=off`, for comparison with one that does not wait for the disk after a copy-up either."""

    name = "fsync=off"

    def __init__(self) -> None:
        """Serve without durability."""
        super().__init__(durable=False)


def unions() -> list[Union]:
    """Return one of each, what all are compared with first."""
    return [Plain(), Overlay(), FuseOverlayfs(), FuseUnion(), FuseUnionVolatile()]

"""Where workloads run: a driver's container, its mount without one, or a plain directory in the same place."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from plugengine.bench.held_mount import Holder
from plugengine.bench.image import AGENT, HOME, WORK
from plugengine.containers import rootfs_view
from plugengine.errors import PlugengineError
from plugengine.kernel.files import open_in_root
from plugengine.kernel.mount import MS_RDONLY, MS_REC
from plugengine.kernel.process import CLONE_NEWNS, setns
from plugengine.model import HostPath, Mount
from plugengine.spec import ContainerSpec, ExecSpec
from plugengine.state import container_rows
from plugengine.streams.attach_client import Streams

if TYPE_CHECKING:
    from plugengine.bench.workload import Inside
    from plugengine.engine import Engine

DEADLINE_S: Final = 120
_READ: Final = os.O_RDONLY | os.O_CLOEXEC
_TAIL: Final = 300
# -I, -S: neither the environment nor site-packages of the image; -B: no byte code is written.
_PYTHON: Final = ("python3", "-ISB", f"{AGENT}/agent.py")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WAIT: Final = (*_PYTHON, "wait")


class Place(Protocol):
    """One writable root filesystem."""

    def run(self, workload: Inside, sizes: Mapping[str, int]) -> float:
        """Run a workload's function there and return its value."""

    def remount(self) -> None:
        """Mount anew what was written so far."""

    def open(self, path: str) -> Any:
        """Give a descriptor of a file there, as a context."""

    def close(self) -> None:
        """Remove it."""


class ContainerPlace:
    """A running container.

    Args:
        engine: Of the run.
        spec: Its command waits for ever.
        scripts: Where a workload's script is inside.
        root: Directory of the container the functions see as their root.
        seen: The same directory on the host, where it is not in the container's own root filesystem.
        undo: Called when it is removed.
    """

    def __init__(
        self,
        engine: Engine,
        spec: ContainerSpec,
        scripts: Mapping[str, str],
        *,
        root: str = "/",
        seen: HostPath | None = None,
        undo: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._scripts = scripts
        self._root = root
        self._seen = seen
        self._undo = undo
        try:
            self.id = engine.containers.create(spec).id
        except BaseException:
            undo()
            raise
        try:
            engine.containers.start(self.id)
        except BaseException:
            self.close()
            raise

    def run(self, workload: Inside, sizes: Mapping[str, int]) -> float:
        """Run the agent with `exec`."""
        words = request(workload, sizes, self._scripts, root=self._root)
        with tempfile.TemporaryFile() as output:
            streams = Streams(stdout=output.fileno(), stderr=output.fileno(), proxy_signals=False)
            outcome = self._engine.containers.exec(self.id, ExecSpec(command=(*_PYTHON, words)), streams=streams)
            output.seek(0)
            return answer(output.read(), outcome.exit_code)

    def remount(self) -> None:
        """Stop and start the container."""
        self._engine.containers.stop(self.id, timeout_s=0, signal="KILL")
        self._engine.containers.start(self.id)

    @contextmanager
    def open(self, path: str) -> Iterator[int]:
        """Open a file from outside."""
        with ExitStack() as undo:
            if self._seen is not None:
                fd = os.open(f"{self._seen}{path}", _READ)
            else:
                row = container_rows.get(self._engine.site.state, self.id)
                fd = open_in_root(undo.enter_context(rootfs_view.root_filesystem(self._engine.site, row)), path, _READ)
            try:
                yield fd
            finally:
                os.close(fd)

    def close(self) -> None:
        """Kill and remove the container."""
        try:
            self._engine.containers.remove(self.id, force=True)
        finally:
            self._undo()


class DirectPlace:
    """A mount without a container, in a mount namespace of its own; the agent is chrooted there.

    Args:
        hold: Mounts.
        scripts: Where a workload's script is inside.
        undo: Called when it is unmounted for the last time.
    """

    def __init__(self, hold: Callable[[], Holder], scripts: Mapping[str, str], *, undo: Callable[[], None]) -> None:
        self._hold = hold
        self._scripts = scripts
        self._undo = undo
        try:
            self._holder = hold()
        except BaseException:
            undo()
            raise

    def run(self, workload: Inside, sizes: Mapping[str, int]) -> float:
        """Run the agent as a child of ours, below the mount."""
        done = self._run([*_PYTHON, request(workload, sizes, self._scripts, root="/")], self._holder.target)
        return answer(done.stdout, done.returncode)

    def run_program(self, argv: Sequence[str]) -> str:
        """Run a program of the host that sees the mount; return what it said.

        Raises:
            PlugengineError: It did not end well.
        """
        done = self._run(argv, "/")
        said = done.stdout.decode(errors="replace").strip()
        if done.returncode != 0:
            raise PlugengineError(f"{argv[0]}: exit code {done.returncode}: {said[-_TAIL:]}")
        return said

    def host_path(self, path: str) -> HostPath:
        """Return where such a program finds a file."""
        return HostPath(f"{self._holder.target}{path}")

    def _run(self, argv: Sequence[str], root: str) -> subprocess.CompletedProcess[bytes]:
        namespace = os.open(f"/proc/{self._holder.pid}/ns/mnt", _READ)

        def enter() -> None:
            setns(namespace, CLONE_NEWNS)
            os.chroot(root)
            os.chdir("/")

        try:
            return subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
                preexec_fn=enter,
                pass_fds=(namespace,),
                timeout=DEADLINE_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as exc:
            raise PlugengineError(f"run {argv[0]} in the mount: {exc}") from exc
        finally:
            os.close(namespace)

    def remount(self) -> None:
        """Unmount and mount."""
        self._holder.release()
        self._holder = self._hold()

    @contextmanager
    def open(self, path: str) -> Iterator[int]:
        """Open a file from outside."""
        fd = os.open(f"{self._holder.root}{path}", _READ)
        try:
            yield fd
        finally:
            os.close(fd)

    def close(self) -> None:
        """Unmount and remove it."""
        try:
            with suppress(PlugengineError):
                self._holder.release()
        finally:
            self._undo()


def inside(target: HostPath, agent: HostPath) -> tuple[Mount, ...]:
    """Return the mounts that programs need in a root filesystem that no container's plan has set up."""
    return (
        Mount(fstype="bind", source="/proc", target=HostPath(f"{target}/proc"), flags=MS_REC),
        Mount(fstype="bind", source="/dev", target=HostPath(f"{target}/dev"), flags=MS_REC),
        Mount(fstype="bind", source=agent, target=HostPath(f"{target}{AGENT}"), flags=MS_RDONLY),
    )


def request(workload: Inside, sizes: Mapping[str, int], scripts: Mapping[str, str], *, root: str) -> str:
    """Return what the agent is told, as one word."""
    return json.dumps(
        {
            "script": f"{AGENT}/{scripts[workload.script]}",
            "function": workload.function,
            "root": root,
            "area": f"{HOME}/{workload.area}" if workload.area else WORK,
            "work": f"{WORK}/{workload.name}",
            "sizes": dict(sizes),
            "deadline_s": DEADLINE_S,
        }
    )


def answer(output: bytes, code: int) -> float:
    """Return the value in the agent's last line.

    Raises:
        PlugengineError: It says what went wrong, or nothing.
    """
    lines = output.decode(errors="replace").strip().splitlines()
    try:
        said = json.loads(lines[-1]) if lines and code == 0 else None
    except ValueError:
        said = None
    if not isinstance(said, dict):
        tail = lines[-1][-_TAIL:] if lines else "it said nothing"
        raise PlugengineError(f"the agent ended with exit code {code}: {tail}")
    if "error" in said:
        raise PlugengineError(str(said["error"]))
    return float(said["value"])

"""A monitor in miniature: a process with a private mount namespace that starts containers as the engine does."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import stat
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from plugengine_runtime_native import launch

from plugengine.bundle import Process, RuntimeRequest, Spawn
from plugengine.errors import PlugengineError
from plugengine.kernel import mount
from plugengine.kernel import process as kernel
from plugengine.model import GuestPath, HostPath, IdRange, NamespacePlan, Record, UserMap
from plugengine.runtime.inside import plan_inside
from plugengine.runtime.process import identify, plan_exec, plan_process
from plugengine.runtime.request import InsideRequest, ResolvedMount
from plugengine.spec import ContainerSpec, ExecSpec, ImageConfig
from tests.waiting import eventually

T = TypeVar("T")

PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1::/:/bin/false
alice:x:1000:1000:Alice:/home/alice:/bin/sh
"""
GROUP = """root:x:0:
daemon:x:1:
alice:x:1000:
audio:x:29:alice
video:x:44:
"""

ALL_NAMESPACES = (
    kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWNET
)
# Ids nobody on this machine has.
USER_MAP = UserMap(
    uids=(IdRange(guest=0, host=1_000_000_000, size=65536),),
    gids=(IdRange(guest=0, host=1_000_000_000, size=65536),),
)


class Outcome(msgspec.Struct, frozen=True):
    """What came of a command."""

    code: int
    stdout: str
    stderr: str
    error: str = ""
    error_type: str = ""
    exit_code: int = 0  # as the error's class says
    warnings: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """Return the lines of the output."""
        return self.stdout.splitlines()


class Container:
    """A container started by the monitor in miniature; everything runs in that monitor's process."""

    def __init__(self, request: InsideRequest) -> None:
        self.request = request
        self.id = os.urandom(16).hex()
        self.pid = self.pidfd = self.master = -1
        self.stdout = self.stderr = -1
        self.record: Record = {}
        self.warnings: list[str] = []
        self.error: PlugengineError | None = None
        self.process = plan_process(request.spec, request.config, hostname=request.hostname)
        self.bundle = msgspec.structs.replace(plan_inside(request, self.process), container_id=self.id)
        self._identify(self.process)  # what cannot be is said before anything starts

    def start(self, *, stdin: int | None = None, before_go: Callable[[int], None] | None = None) -> None:
        """Have the first process made, let it go, and remember what came of it."""
        process = self._identify(self.process)
        for path in self.request.etc_files.values():
            Path(path).touch()
        with _Streams(stdin, terminal=process.terminal) as streams:
            self.stdout, self.stderr = streams.stdout, streams.stderr
            bundle = msgspec.structs.replace(self.bundle, process=process)
            made = launch.create(self._asked(), bundle, Spawn(stdio=streams.lent))
        self.pid, self.record = made.pid, made.record
        self.pidfd = os.pidfd_open(made.pid)
        if before_go is not None:
            before_go(self.pid)
        try:
            started = launch.start(self.id)
        except PlugengineError as exc:
            self.error = exc
            return
        self.warnings += started.warnings
        if started.terminal is not None:
            self.master = started.terminal

    def exec(self, command: tuple[str, ...], *, stdin: int | None = None, **options: Any) -> Outcome:
        """Run one more process inside and wait for it."""
        planned = plan_exec(
            self.request.spec,
            self.request.config,
            ExecSpec(command=command, **options),
            hostname=self.request.hostname,
        )
        process = self._identify(planned)
        with _Streams(stdin, terminal=process.terminal, keep=False) as streams:
            try:
                made = launch.run(self._asked(), self.record, process, Spawn(stdio=streams.lent))
            except PlugengineError as exc:
                return _outcome(exc.exit_code, exc, (), _content(streams.stdout), _content(streams.stderr))
            output = b"" if made.terminal is None else _read_terminal(made.terminal)
            pidfd = os.pidfd_open(made.pid)
            code = _wait(pidfd)
            os.close(pidfd)
            return _outcome(code, None, made.warnings, output or _content(streams.stdout), _content(streams.stderr))

    def finish(self) -> Outcome:
        """Wait for the end and return what came of it."""
        output = b""
        if self.master >= 0:
            output = _read_terminal(self.master)
        code = _wait(self.pidfd)
        launch.delete(self.id)
        return _outcome(code, self.error, self.warnings, output or _content(self.stdout), _content(self.stderr))

    def kill(self) -> None:
        """End it with SIGKILL."""
        launch.kill(self.record, signal.SIGKILL)

    def close(self) -> None:
        """Close what is still open of it."""
        for fd in (self.pidfd, self.stdout, self.stderr):
            os.close(fd)

    def output(self) -> str:
        """Return what it has written to standard output so far."""
        return os.pread(self.stdout, 1 << 20, 0).decode()

    def _identify(self, process: Process) -> Process:
        return identify(process, self.request.rootfs, self.request.namespaces.user_map)

    def _asked(self) -> RuntimeRequest:
        return RuntimeRequest(container_id=self.id, directory=self._scratch("runtime"), shared=self._scratch("shared"))

    def _scratch(self, name: str) -> HostPath:
        return HostPath(f"{self.request.rootfs}.{name}")


class _Streams:
    """The standard streams of one process: what it writes goes to memory files."""

    def __init__(self, stdin: int | None, *, terminal: bool, keep: bool = True) -> None:
        self._stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) if stdin is None else os.dup(stdin)
        self._keep = keep
        self.stdout = os.memfd_create("stdout", os.MFD_CLOEXEC)
        self.stderr = os.memfd_create("stderr", os.MFD_CLOEXEC)
        self.lent = None if terminal else (self._stdin, self.stdout, self.stderr)

    def __enter__(self) -> _Streams:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._stdin)
        if not self._keep:
            os.close(self.stdout)
            os.close(self.stderr)


def _wait(pidfd: int) -> int:
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    assert result is not None
    return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status


def assert_goes(pid: int) -> None:
    """Wait until there is no such process; somebody else reaps it."""
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))


def _content(fd: int) -> bytes:
    return os.pread(fd, 1 << 20, 0)


def _read_terminal(master: int) -> bytes:
    data = b""
    try:
        while chunk := os.read(master, 4096):
            data += chunk
    except OSError:  # EIO: the other end is closed
        pass
    os.close(master)
    return data


def _outcome(
    code: int, error: PlugengineError | None, warnings: Sequence[str], stdout: bytes, stderr: bytes
) -> Outcome:
    return Outcome(
        code,
        stdout.decode(errors="replace"),
        stderr.decode(errors="replace"),
        str(error) if error else "",
        type(error).__name__ if error else "",
        error.exit_code if error else 0,
        tuple(warnings),
    )


class Rootfs:
    """An image of this machine's own programs: its /usr, bound read-only, and an /etc of three files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("usr", "etc", "root", "tmp", "home/alice"):
            (path / name).mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            if Path("/", name).is_symlink():
                (path / name).symlink_to(f"usr/{name}")
        (path / "etc/passwd").write_text(PASSWD)
        (path / "etc/group").write_text(GROUP)
        (path / "tmp").chmod(0o1777)
        self.config = ImageConfig()

    def program(self, name: str, text: str, mode: int = 0o755) -> None:
        """Write an executable file."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def owned_by(self, user_map: UserMap) -> None:
        """Give every file to the user it is seen as inside a user namespace."""
        shift = user_map.uids[0].host
        for directory, names, files in os.walk(self.path):
            for name in (*names, *files, ""):
                status = os.lstat(os.path.join(directory, name))
                if status.st_uid < shift:
                    os.lchown(os.path.join(directory, name), status.st_uid + shift, status.st_gid + shift)
                    if not stat.S_ISLNK(status.st_mode):
                        os.chmod(os.path.join(directory, name), stat.S_IMODE(status.st_mode))

    def request(
        self,
        *command: str,
        mounts: tuple[ResolvedMount, ...] = (),
        user_map: UserMap | None = None,
        config: ImageConfig | None = None,
        hostname: str = "box",
        etc_files: dict[GuestPath, HostPath] | None = None,
        namespaces: int = ALL_NAMESPACES,
        cgroup_mounts: tuple[Any, ...] = (),
        masked: tuple[GuestPath, ...] | None = None,
        toolbox: bool = True,
        seccomp: str = "unconfined",
        **spec: Any,
    ) -> InsideRequest:
        """Describe a container of this image."""
        tools = ResolvedMount(target=GuestPath("/usr"), source=HostPath("/usr"), read_only=True)
        described = ContainerSpec(image="box", command=command, seccomp=seccomp, **spec)
        user = 0 if user_map is None else kernel.CLONE_NEWUSER
        return InsideRequest(
            container_id="",
            rootfs=HostPath(str(self.path)),
            spec=described,
            config=config or self.config,
            hostname=hostname,
            etc_files=etc_files or {},
            mounts=((tools,) if toolbox else ()) + mounts,
            devices=described.devices,
            cgroup_mounts=cgroup_mounts,
            masked=masked,
            namespaces=NamespacePlan(
                clone_flags=namespaces | user, unshare_flags=kernel.CLONE_NEWCGROUP, user_map=user_map
            ),
        )


class Monitor:
    """Runs functions in a forked process that has a mount namespace of its own."""

    def __init__(self, rootfs: Rootfs) -> None:
        self.rootfs = rootfs

    def __call__(self, function: Callable[[], T]) -> T:
        """Run `function` there and return what it returned, or fail with its traceback."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            self._inside(function, writer)
        os.close(writer)
        with open(reader, "rb") as stream:
            data = stream.read()
        os.waitpid(pid, 0)
        assert data, "the monitor died"
        fine, result = pickle.loads(data)
        if not fine:
            pytest.fail(result)
        return result  # type: ignore[no-any-return]

    def run(self, *command: str, stdin: int | None = None, **options: Any) -> Outcome:
        """Start a container, wait for it."""
        request = self.rootfs.request(*command, **options)
        if request.namespaces.user_map is not None:
            self.rootfs.owned_by(request.namespaces.user_map)

        def start() -> Outcome:
            container = Container(request)
            container.start(stdin=stdin)
            return container.finish()

        return self(start)

    def sh(self, script: str, **options: Any) -> Outcome:
        """Run a shell script in a container."""
        return self.run("/bin/sh", "-c", script, **options)

    def beside(
        self,
        use: Callable[[Container], T],
        *,
        user_map: UserMap | None = None,
        **options: Any,
    ) -> T:
        """Run `use` with a container that sleeps, and return what it returns."""
        request = self.rootfs.request("sleep", "100", user_map=user_map, **options)
        if user_map is not None:
            self.rootfs.owned_by(user_map)

        def run() -> T:
            container = Container(request)
            container.start()
            try:
                return use(container)
            finally:
                container.kill()
                container.finish()

        return self(run)

    def _inside(self, function: Callable[[], Any], writer: int) -> None:
        try:
            kernel.unshare(kernel.CLONE_NEWNS)
            mount.mount(None, "/", None, mount.MS_REC | mount.MS_PRIVATE)
            mount.mount(str(self.rootfs.path), str(self.rootfs.path), None, mount.MS_BIND)
            answer = (True, function())
        except BaseException:  # noqa: BLE001 - the parent fails the test with it
            answer = (False, traceback.format_exc())
        with open(writer, "wb") as stream:
            pickle.dump(answer, stream)
        os._exit(0)


@pytest.fixture
def rootfs(tmp_path: Path) -> Iterator[Rootfs]:
    """A small image."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    path = tmp_path / "rootfs"
    path.mkdir()
    yield Rootfs(path)
    shutil.rmtree(path)


@pytest.fixture
def monitor(rootfs: Rootfs) -> Monitor:
    """A monitor for the image of `rootfs`."""
    return Monitor(rootfs)

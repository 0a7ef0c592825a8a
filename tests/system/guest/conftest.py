"""A monitor in miniature: a process with a private mount namespace that starts containers as the engine does."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import stat
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from plugengine import mounts as mounting
from plugengine.errors import PlugengineError
from plugengine.kernel import mount
from plugengine.kernel import process as kernel
from plugengine.model import GuestPath, HostPath, IdRange, UserMap
from plugengine.runtime import child, guest
from plugengine.runtime.accounts import read_accounts
from plugengine.runtime.child.report import ERROR, PROCESS, TERMINAL, WARNING
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

    def __init__(self, request: guest.GuestRequest, seccomp: bytes | None = None) -> None:
        self.request = request
        self.seccomp = seccomp
        self.reports: list[child.Report] = []
        self.pid = self.pidfd = self.master = -1
        self.stdout = self.stderr = -1
        self.stdin: int | None = None
        self.plan = guest.plan_guest(request)
        self.process = self._plan_process()

    def start(
        self, *, stdin: int | None = None, flags: int = ALL_NAMESPACES, before_go: Callable[[int], None] | None = None
    ) -> None:
        """Clone the child, map its users, let it go and read what it reports."""
        user_map = self.request.user_map
        sources = guest.open_sources(self.plan)
        with sources, _Channel(stdin) as channel:
            if user_map is not None:
                flags |= kernel.CLONE_NEWUSER
            self.pid, self.pidfd = kernel.clone3(flags)
            if self.pid == 0:
                child.become_init(
                    self.plan,
                    self.process,
                    sources=sources,
                    go_fd=channel.go_read,
                    report_fd=channel.theirs,
                    stdio=None if self.process.tty else channel.stdio,
                    unshare_flags=kernel.CLONE_NEWCGROUP,
                )
            sources.close()
            if user_map is not None:
                mounting.write_maps(self.pid, user_map)
            guest.raise_rlimits(self.pid, self.process.rlimits)
            if before_go is not None:
                before_go(self.pid)
            self._collect(channel)

    def exec(self, command: tuple[str, ...], *, stdin: int | None = None, **options: Any) -> Outcome:
        """Run one more process inside and wait for it."""
        process = guest.plan_exec(self._process_request(), ExecSpec(command=command, **options))
        namespaces = child.namespaces_of(self.pid)
        with _Channel(stdin) as channel:
            intermediate = os.fork()
            if intermediate == 0:
                child.become_exec(
                    process,
                    pidfd=self.pidfd,
                    namespaces=namespaces,
                    go_fd=channel.go_read,
                    report_fd=channel.theirs,
                    stdio=None if process.tty else channel.stdio,
                )
            reports = channel.release()
            _pid, status = os.waitpid(intermediate, 0)
            code = os.waitstatus_to_exitcode(status)
            output = b""
            for report in reports:
                if report.kind == TERMINAL:
                    output = _read_terminal(report.fd)
                if report.kind == PROCESS:
                    code = _wait(report.fd)
                    os.close(report.fd)
            return _outcome(code, reports, process, None, output or _content(channel.stdout), _content(channel.stderr))

    def finish(self) -> Outcome:
        """Wait for the end and return what came of it."""
        output = b""
        if self.master >= 0:
            output = _read_terminal(self.master)
        code = _wait(self.pidfd)
        return _outcome(
            code, self.reports, self.process, self.plan, output or _content(self.stdout), _content(self.stderr)
        )

    def kill(self) -> None:
        """End it with SIGKILL."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Close what is still open of it."""
        for fd in (self.pidfd, self.stdout, self.stderr):
            os.close(fd)

    def output(self) -> str:
        """Return what it has written to standard output so far."""
        return os.pread(self.stdout, 1 << 20, 0).decode()

    def _collect(self, channel: _Channel) -> None:
        self.reports = channel.release()
        self.stdout, self.stderr = channel.keep_output()
        for report in self.reports:
            if report.kind == TERMINAL:
                self.master = report.fd

    def _process_request(self) -> guest.ProcessRequest:
        return guest.ProcessRequest(
            spec=self.request.spec,
            config=self.request.config,
            hostname=self.request.hostname,
            accounts=read_accounts(self.request.rootfs),
            seccomp=self.seccomp,
            user_map=self.request.user_map,
        )

    def _plan_process(self) -> guest.ProcessPlan:
        return guest.plan_process(self._process_request())


class _Channel:
    """The pipes of one start."""

    def __init__(self, stdin: int | None) -> None:
        self.go_read, self._go_write = os.pipe()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours, self.theirs = ours.detach(), theirs.detach()
        self._stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) if stdin is None else os.dup(stdin)
        self.stdout = os.memfd_create("stdout", os.MFD_CLOEXEC)
        self.stderr = os.memfd_create("stderr", os.MFD_CLOEXEC)
        self.stdio = (self._stdin, self.stdout, self.stderr)
        self._open = [self.go_read, self._go_write, self._ours, self.theirs, *self.stdio]

    def release(self) -> list[child.Report]:
        self._close(self.theirs)
        self._close(self.go_read)
        os.write(self._go_write, b"\1")
        reports = []
        while (report := child.read_report(self._ours)) is not None:
            reports.append(report)
        return reports

    def keep_output(self) -> tuple[int, int]:
        self._open = [fd for fd in self._open if fd not in {self.stdout, self.stderr}]
        return self.stdout, self.stderr

    def _close(self, fd: int) -> None:
        self._open.remove(fd)
        os.close(fd)

    def __enter__(self) -> _Channel:
        return self

    def __exit__(self, *_exc: object) -> None:
        while self._open:
            os.close(self._open.pop())


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
    code: int,
    reports: list[child.Report],
    process: guest.ProcessPlan,
    plan: guest.GuestPlan | None,
    stdout: bytes,
    stderr: bytes,
) -> Outcome:
    error: PlugengineError | None = None
    warnings = []
    for report in reports:
        if report.kind == ERROR:
            error = child.explain(report, process, plan)
        if report.kind == WARNING:
            warnings.append(str(child.explain(report, process, plan)))
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
        mounts: tuple[guest.ResolvedMount, ...] = (),
        user_map: UserMap | None = None,
        config: ImageConfig | None = None,
        hostname: str = "box",
        etc_files: dict[GuestPath, HostPath] | None = None,
        own_net: bool = True,
        own_ipc: bool = True,
        cgroup_mounts: tuple[Any, ...] = (),
        masked: tuple[GuestPath, ...] | None = None,
        toolbox: bool = True,
        **spec: Any,
    ) -> guest.GuestRequest:
        """Describe a container of this image."""
        tools = guest.ResolvedMount(target=GuestPath("/usr"), source=HostPath("/usr"), read_only=True)
        described = ContainerSpec(image="box", command=command, **spec)
        return guest.GuestRequest(
            rootfs=HostPath(str(self.path)),
            spec=described,
            config=config or self.config,
            hostname=hostname,
            etc_files=etc_files or {},
            mounts=((tools,) if toolbox else ()) + mounts,
            devices=described.devices,
            cgroup_mounts=cgroup_mounts,
            masked=masked,
            user_map=user_map,
            own_net=own_net,
            own_ipc=own_ipc,
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

    def run(self, *command: str, seccomp: bytes | None = None, stdin: int | None = None, **options: Any) -> Outcome:
        """Start a container, wait for it."""
        request = self.rootfs.request(*command, **options)
        if request.user_map is not None:
            self.rootfs.owned_by(request.user_map)

        def start() -> Outcome:
            container = Container(request, seccomp)
            flags = ALL_NAMESPACES if request.own_net else ALL_NAMESPACES & ~kernel.CLONE_NEWNET
            container.start(stdin=stdin, flags=flags)
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
        seccomp: bytes | None = None,
        **options: Any,
    ) -> T:
        """Run `use` with a container that sleeps, and return what it returns."""
        request = self.rootfs.request("sleep", "100", user_map=user_map, **options)
        if user_map is not None:
            self.rootfs.owned_by(user_map)

        def run() -> T:
            container = Container(request, seccomp)
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

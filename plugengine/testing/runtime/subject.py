"""The runtime driver under test, and the containers of a case: this machine's own programs, in a root of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, cast

from msgspec import Struct

from plugengine.bundle import Bundle, Process, RuntimeProcess, RuntimeRequest, Spawn
from plugengine.errors import PlugengineError
from plugengine.kernel import credentials, mount
from plugengine.kernel.process import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
)
from plugengine.kernel.process import parent_of as parent_process
from plugengine.model import (
    Capability,
    CgroupEntry,
    CgroupRequest,
    GuestPath,
    Host,
    HostPath,
    Limits,
    NamespacePlan,
    Record,
    UserMap,
)
from plugengine.plugins.drivers import CgroupDriver, RuntimeDriver, open_driver
from plugengine.plugins.probing import status
from plugengine.plugins.registry import Registry
from plugengine.runtime.inside import plan_inside
from plugengine.runtime.process import identify, plan_exec, plan_process
from plugengine.runtime.request import InsideRequest, ResolvedMount
from plugengine.security import devices
from plugengine.spec import ContainerSpec, ExecSpec, ImageConfig
from plugengine.testing.cases import Unsuitable, expect, expect_equal, fail, soon
from plugengine.testing.groups import left_by, parent_of

NAMESPACES: Final = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET
HOSTNAME: Final = "kit"
_USERS: Final = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001:Alice:/home/alice:/bin/sh\n"
_GROUPS: Final = "root:x:0:\nalice:x:1001:\naudio:x:29:alice\n"
_OUTPUT_BYTES: Final = 1 << 20


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of a process."""

    code: int  # its exit code, or minus the signal
    stdout: str
    stderr: str


class Subject:
    """Makes containers as the engine's monitor does: it is their subreaper, and has their mounts.

    Args:
        driver: The driver under test.
        host: Roots below `scratch`.
        scratch: Directory of this case.
        options: The user's, given in every request.
    """

    def __init__(self, driver: RuntimeDriver, host: Host, scratch: HostPath, options: Mapping[str, str]) -> None:
        self.driver: RuntimeDriver = driver
        self.host: Host = host
        self.scratch: HostPath = scratch
        self.options: dict[str, str] = dict(options)
        self.cgroup: CgroupDriver = _cgroup_driver(host)
        self.containers: list[Container] = []

    def __enter__(self) -> Self:
        credentials.set_child_subreaper(enabled=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the containers of the case."""
        for container in self.containers:
            container.end()

    def leaks(self) -> list[str]:
        """Return the control groups that are left; processes are looked for by the runner, and mounts end with it."""
        return [f"left the control group {group}" for group in left_by(os.getpid())]

    def claims(self, capability: Capability) -> bool:
        """Tell whether the driver claims a capability."""
        return capability in self.driver.info.capabilities

    def request(self) -> RuntimeRequest:
        """Return the request of a new container."""
        container_id = os.urandom(32).hex()
        return RuntimeRequest(
            container_id=container_id,
            directory=HostPath(f"{self.scratch}/{container_id[:8]}.runtime"),
            shared=HostPath(f"{self.scratch}/shared"),
            options=self.options,
        )

    def container(self, *command: str, **how: Any) -> Container:
        """Return a container that is not made yet; see `Container` for `how`."""
        self.containers.append(Container(self, command, **how))
        return self.containers[-1]

    def start(self, *command: str, **how: Any) -> Container:
        """Make a container and let it go."""
        container = self.container(*command, **how)
        container.create()
        container.start()
        return container

    def run(self, *command: str, **how: Any) -> Outcome:
        """Run a container to its end."""
        return self.start(*command, **how).outcome()

    def sh(self, script: str, **how: Any) -> Outcome:
        """Run a shell script in a container."""
        return self.run("/bin/sh", "-c", script, **how)


class Container:
    """One container of a case.

    Args:
        subject: Whose.
        command: Its words.
        stdin: Descriptor of its standard input; None: empty.
        mounts: Further ones, as people ask for them.
        etc_files: Files of the host by their path in the container, bound there.
        clone_flags: Of its namespaces.
        join: Namespaces it enters.
        user_map: Of its user namespace.
        time_offsets: Of its time namespace.
        spec: Anything else people can ask for; see `ContainerSpec`.
    """

    def __init__(
        self,
        subject: Subject,
        command: tuple[str, ...],
        *,
        stdin: int | None = None,
        mounts: tuple[ResolvedMount, ...] = (),
        etc_files: Mapping[GuestPath, HostPath] | None = None,
        clone_flags: int = NAMESPACES,
        join: tuple[tuple[str, HostPath], ...] = (),
        user_map: UserMap | None = None,
        time_offsets: tuple[tuple[str, int], ...] = (),
        **spec: Any,
    ) -> None:
        self.subject: Subject = subject
        self.driver: RuntimeDriver = subject.driver
        self.request: RuntimeRequest = subject.request()
        self.made: RuntimeProcess | None = None
        self.record: Record = {}
        self.warnings: list[str] = []
        self.terminal: int | None = None
        self.group: Group = Group(subject, self.request.container_id)
        self._stdin = stdin
        self._streams: Streams | None = None
        self._reaped: int | None = None
        self._spec = ContainerSpec(image="kit", command=command, **{"seccomp": "unconfined", **spec})
        root = _root(HostPath(f"{subject.scratch}/{self.request.container_id[:8]}.root"), user_map)
        plan = NamespacePlan(
            clone_flags=clone_flags,
            unshare_flags=CLONE_NEWCGROUP,
            join=join,
            user_map=user_map,
            time_offsets=time_offsets,
        )
        usr = ResolvedMount(target=GuestPath("/usr"), source=HostPath("/usr"), read_only=True)
        inside = InsideRequest(
            container_id=self.request.container_id,
            rootfs=root,
            spec=self._spec,
            config=ImageConfig(),
            hostname=HOSTNAME,
            namespaces=plan,
            mounts=(usr, *mounts),
            devices=self._spec.devices,
            etc_files=etc_files or {},
        )
        planned = plan_process(self._spec, ImageConfig(), hostname=HOSTNAME)
        self.bundle: Bundle = plan_inside(inside, identify(planned, root, user_map))

    def create(self) -> None:
        """Have it made and held at its gate."""
        self._streams = Streams(self._stdin, terminal=self.bundle.process.terminal)
        made = self.driver.create(self.request, self.bundle, Spawn(stdio=self._streams.lent, cgroup=self.group.entry))
        expect_equal(parent_process(made.pid), os.getpid(), "parent of the process that was made")
        self.made, self.record, self.terminal = made, made.record, made.terminal
        self.warnings += made.warnings

    def start(self) -> None:
        """Let it go."""
        made = self.driver.start(self.request, self.record)
        expect_equal(made.pid, self.pid, "process that was started")
        self.warnings += made.warnings
        if made.terminal is not None:
            self.terminal = made.terminal

    @property
    def pid(self) -> int:
        """The first process, on the host."""
        return 0 if self.made is None else self.made.pid

    def exec(self, *command: str, stdin: int | None = None, **asked: Any) -> Outcome:
        """Run one more process to its end."""
        planned = plan_exec(self._spec, ImageConfig(), ExecSpec(command=command, **asked), hostname=HOSTNAME)
        return self.exec_process(self.identified(planned), stdin=stdin)

    def exec_process(self, process: Process, *, stdin: int | None = None) -> Outcome:
        """Run one more process, as it is described."""
        streams = Streams(stdin, terminal=process.terminal)
        try:
            made = self.driver.exec(
                self.request, self.record, process, Spawn(stdio=streams.lent, cgroup=self.group.entry)
            )
            expect_equal(parent_process(made.pid), os.getpid(), "parent of the process of exec")
            return streams.outcome(lambda: wait(made.pid), made.terminal)
        finally:
            streams.close()

    def identified(self, process: Process) -> Process:
        """Return a process with the ids of its user."""
        return identify(process, self.bundle.root, self.bundle.namespaces.user_map)

    def outcome(self) -> Outcome:
        """Wait for the end, delete it, and return what came of it."""
        if self._streams is None:
            fail("a container was waited for that was never made")
        terminal, self.terminal = self.terminal, None
        outcome = self._streams.outcome(self.wait, terminal)
        self.driver.delete(self.request, self.record)
        return outcome

    def wait(self) -> int:
        """Wait for the first process; return its exit code, or minus the signal."""
        if self._reaped is None:
            self._reaped = wait(self.pid)
        return self._reaped

    def output(self) -> str:
        """Return what it has written to its standard output so far."""
        return "" if self._streams is None else self._streams.stdout

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Have the driver send a signal."""
        self.driver.kill(self.request, self.record, number)

    def end(self) -> None:
        """Kill, reap and delete, whatever state it is in."""
        if self.pid and self._reaped is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                self.wait()
        with suppress(PlugengineError):
            self.driver.delete(self.request, self.record)
        if self._streams is not None:
            self._streams.close()
            self._streams = None
        if self.terminal is not None:
            os.close(self.terminal)
            self.terminal = None
        with suppress(OSError):
            mount.umount2(self.bundle.root, mount.MNT_DETACH)
        self.group.remove()


class Group:
    """The control group of a container, by the driver this host has for it; the runtime under test enters it."""

    def __init__(self, subject: Subject, container_id: str) -> None:
        self._driver = subject.cgroup
        self._request = CgroupRequest(container_id=container_id, parent=parent_of(os.getpid()), owner=subject.host.root)
        self._record = self._driver.create(self._request)
        limits = Limits(devices=devices.RULES)
        self._driver.apply(self._record, self._driver.settings(limits, self._request), limits)
        self.entry: CgroupEntry = self._driver.entry(self._record)

    def pids(self) -> tuple[int, ...]:
        """Return the processes in it and below it."""
        return self._driver.pids(self._record)

    def remove(self) -> None:
        """Kill what is in it, and remove it."""
        self._driver.kill(self._request, self._record)
        self._driver.remove(self._request, self._record)


class Streams:
    """The standard streams of one process: what it writes goes to files without a name."""

    def __init__(self, stdin: int | None, *, terminal: bool) -> None:
        self._stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) if stdin is None else os.dup(stdin)
        self._out = os.memfd_create("stdout", os.MFD_CLOEXEC)
        self._err = os.memfd_create("stderr", os.MFD_CLOEXEC)
        self.lent: tuple[int, int, int] | None = None if terminal else (self._stdin, self._out, self._err)

    def close(self) -> None:
        """Close them."""
        for fd in (self._stdin, self._out, self._err):
            os.close(fd)

    @property
    def stdout(self) -> str:
        """What was written so far."""
        return os.pread(self._out, _OUTPUT_BYTES, 0).decode(errors="replace")

    def outcome(self, ended: Callable[[], int], terminal: int | None) -> Outcome:
        """Wait for the end and return it with what was written; to a terminal, if there is one."""
        shown = "" if terminal is None else _drain(terminal)
        code = ended()
        stderr = os.pread(self._err, _OUTPUT_BYTES, 0).decode(errors="replace")
        return Outcome(code=code, stdout=shown or self.stdout, stderr=stderr)


def _cgroup_driver(host: Host) -> CgroupDriver:
    registry = Registry()
    found = next((line for line in status(registry, host, {}, kinds=("cgroup",)) if line.default), None)
    if found is None:
        raise Unsuitable("no cgroup driver works on this host")
    return cast(CgroupDriver, open_driver(registry, "cgroup", found.name))


def wait(pid: int) -> int:
    """Wait for a child; return its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def gone(pid: int) -> bool:
    """Tell whether a process ends soon, and is reaped by somebody or is ours to reap."""

    def ended() -> bool:
        try:
            return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return not os.path.exists(f"/proc/{pid}")

    return soon(ended)


def succeeded(outcome: Outcome) -> str:
    """Return what a process wrote; raise Failure if it failed."""
    expect(outcome.code == 0, f"the command ended with {outcome.code}: {outcome.stderr.strip()}")
    return outcome.stdout


def _drain(terminal: int) -> str:
    """Read a terminal until its other end is closed."""
    data = b""
    try:
        while part := os.read(terminal, 4096):
            data += part
    except OSError:  # EIO: closed
        pass
    os.close(terminal)
    return data.decode(errors="replace")


def _root(path: HostPath, user_map: UserMap | None) -> HostPath:
    """Make a root filesystem of this machine's programs, mounted as the engine mounts one."""
    for name in ("usr", "etc", "root", "tmp", "home/alice"):
        os.makedirs(f"{path}/{name}")
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            os.symlink(f"usr/{name}", f"{path}/{name}")
    for name, text in (("passwd", _USERS), ("group", _GROUPS)):
        with open(f"{path}/etc/{name}", "w", encoding="ascii") as stream:
            stream.write(text)
    os.chmod(f"{path}/tmp", 0o1777)  # noqa: S103, S108 - in the container, as everywhere
    if user_map is not None:
        for directory, names, files in os.walk(path):
            for name in ("", *names, *files):
                os.lchown(os.path.join(directory, name), user_map.uids[0].host, user_map.gids[0].host)
    mount.mount(path, path, None, mount.MS_BIND, None)
    return path

"""The engines compared: how each is found, started, given the image, and asked to run it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from isolation import cgroup_parent
from measure import Case, tail

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

IMAGE = "pe-bench"
MARK = "pe-bench"
NETWORKS = ("none", "bridge")
PE_STORAGE = ("overlay", "fuse_union")
COMMAND_TIMEOUT_S = 120
READY_TIMEOUT_S = 30
READY_PAUSE_S = 0.1
CAP_SYS_RESOURCE = 24  # include/uapi/linux/capability.h


class EngineError(Exception):
    """An engine is missing or cannot be made ready; the message is shown in its rows."""


class Engine(Protocol):
    """One engine of the comparison."""

    name: str

    def prepare(self, tar: Path) -> Mapping[str, str]:
        """Make the engine ready to run the image; return its versions.

        Raises:
            EngineError: It is not installed, or it failed; with its own words.
        """

    def variants(self) -> Mapping[str, Sequence[str]]:
        """Return the command prefix of each row by its name; a program and its arguments follow it."""

    def close(self) -> None:
        """End what `prepare` started."""


def environment(work: Path) -> dict[str, str]:
    """Return a small environment, so that no configuration of the caller plays a part."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(work / "home"), "LANG": "C.UTF-8"}


def say(argv: Sequence[str], work: Path) -> str:
    """Run a command; return what it printed.

    Raises:
        EngineError: It failed; the message holds its stderr.
    """
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            env=environment(work),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise EngineError(str(exc)) from exc
    if done.returncode != 0:
        raise EngineError(f"{' '.join(argv)}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def first_line(argv: Sequence[str], work: Path) -> str:
    """Return the first line of a version command, or why there is none."""
    try:
        return (say(argv, work).splitlines() or [""])[0]
    except EngineError as exc:
        return f"unknown ({exc})"


def found(name: str) -> str:
    """Return the path of a program.

    Raises:
        EngineError: It is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise EngineError(f"{name} is not installed")
    return path


@dataclass
class Pe:
    """plugengine, through its command line."""

    work: Path
    program: str
    storages: Sequence[str] = PE_STORAGE
    name: str = "pe"
    image: str = IMAGE

    @property
    def command(self) -> list[str]:
        """Return `pe` with roots of its own."""
        return [self.program, "--root", f"{self.work}/pe/root", "--run-root", f"{self.work}/pe/run"]

    def prepare(self, tar: Path) -> Mapping[str, str]:
        if not Path(self.program).is_file():
            raise EngineError(f"{self.program} is not there; name another with --pe")
        (self.work / "pe").mkdir()
        versions = {"pe": first_line([self.program, "--version"], self.work)}
        try:
            say([*self.command, "import", str(tar), IMAGE], self.work)
        except EngineError as exc:
            self.image = "host:base"
            versions["pe image"] = f"host:base, because import did not work: {exc}"
        return versions

    def variants(self) -> Mapping[str, Sequence[str]]:
        return {
            f"{network}, {storage}": [
                *(*self.command, "run", "--rm", "--storage", storage, "--net", network, self.image)
            ]
            for network in NETWORKS
            for storage in self.storages
        }

    def close(self) -> None:
        if not Path(self.program).is_file():
            return
        with contextlib.suppress(EngineError):
            ids = say([*self.command, "ps", "--all", "--quiet"], self.work).split()
            if ids:
                say([*self.command, "rm", "--force", *ids], self.work)


@dataclass
class Docker:
    """dockerd with its own roots, socket and containerd; the client from the same package as the daemon."""

    work: Path
    name: str = "docker"
    client: str = "docker"
    daemon: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        """Return the client, pointed at this run's daemon."""
        return [self.client, "--host", f"unix://{self.work}/docker/sock"]

    def prepare(self, tar: Path) -> Mapping[str, str]:
        dockerd = found("dockerd")
        # A client of another version may stand first in PATH (/usr/local/bin); Debian keeps both below /usr.
        beside = Path(dockerd).parent.parent / "bin" / "docker"
        self.client = str(beside) if beside.is_file() else found("docker")
        self._start(dockerd)
        say([*self.command, "import", str(tar), IMAGE], self.work)
        version = [*self.command, "version", "--format"]
        return {
            "docker client": say([*version, "{{.Client.Version}}"], self.work),
            "dockerd": say([*version, "{{.Server.Version}}"], self.work),
            "docker storage": say([*self.command, "info", "--format", "{{.Driver}}"], self.work),
            "containerd": first_line(["containerd", "--version"], self.work),
            "runc": first_line(["runc", "--version"], self.work),
        }

    def _start(self, dockerd: str) -> None:
        base = self.work / "docker"
        base.mkdir()
        (base / "daemon.json").write_text("{}")
        argv = [dockerd, "--config-file", f"{base}/daemon.json", "--host", f"unix://{base}/sock"]
        argv += ["--data-root", f"{base}/data", "--exec-root", f"{base}/exec", "--pidfile", f"{base}/pid"]
        argv += ["--cgroup-parent", f"{cgroup_parent(self.work)}/docker"]
        log = base / "log"
        with log.open("wb") as stream:
            self.daemon = subprocess.Popen(argv, stdout=stream, stderr=stream, env=environment(self.work))
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline and self.daemon.poll() is None:
            try:
                say([*self.command, "version"], self.work)
            except EngineError:
                time.sleep(READY_PAUSE_S)
            else:
                return
        raise EngineError(f"dockerd did not come up: {tail(log)}")

    def variants(self) -> Mapping[str, Sequence[str]]:
        return {network: [*self.command, "run", "--rm", "--network", network, IMAGE] for network in NETWORKS}

    def close(self) -> None:
        if self.daemon is None:
            return
        self.daemon.terminate()
        try:
            self.daemon.wait(READY_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()


@dataclass
class Podman:
    """podman with its own roots and network directory; no process of its own stays between runs."""

    work: Path
    name: str = "podman"

    @property
    def command(self) -> list[str]:
        """Return podman with cgroupfs (no systemd in the namespace), and runc where it is installed."""
        base = self.work / "podman"
        argv = ["podman", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        argv += ["--root", f"{base}/root", "--runroot", f"{base}/run", "--tmpdir", f"{base}/tmp"]
        argv += ["--network-config-dir", f"{base}/networks"]
        # crun refuses a hybrid cgroup host; with runc both peers share one runtime.
        return [*argv, "--runtime", "runc"] if shutil.which("runc") else argv

    def prepare(self, tar: Path) -> Mapping[str, str]:
        found("podman")
        (self.work / "podman").mkdir()
        say([*self.command, "import", str(tar), IMAGE], self.work)
        info = [*self.command, "info", "--format"]
        return {
            "podman": say(["podman", "version", "--format", "{{.Client.Version}}"], self.work),
            "podman storage": say([*info, "{{.Store.GraphDriverName}}"], self.work),
            "podman network": say([*info, "{{.Host.NetworkBackend}}"], self.work),
            "podman runtime": say([*info, "{{.Host.OCIRuntime.Name}}"], self.work),
            "conmon": first_line(["conmon", "--version"], self.work),
        }

    def variants(self) -> Mapping[str, Sequence[str]]:
        options = ["--cgroup-parent", f"{cgroup_parent(self.work)}/podman"]
        if not has_capability(CAP_SYS_RESOURCE):
            # podman's default limits are above the hard limits of such a process: runc answers EPERM.
            options += ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]
        return {network: [*self.command, "run", "--rm", *options, "--network", network, IMAGE] for network in NETWORKS}

    def close(self) -> None:
        """Nothing: no process stays between runs."""


def has_capability(number: int) -> bool:
    """Tell whether the effective set holds a capability; see proc_pid_status(5)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def cases_of(engine: Engine, work: Path) -> Iterator[Case]:
    """Yield the cases of an engine."""
    for name, prefix in engine.variants().items():
        yield Case(
            engine=engine.name,
            name=name,
            argv=[*prefix, "true"],
            environment=environment(work),
            check_argv=[*prefix, "echo", MARK],
            expect=MARK,
        )

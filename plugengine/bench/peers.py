"""Other engines, with roots and sockets of their own: how each is found, started and given the image."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from plugengine.bench.commands import Shell, find_program
from plugengine.bench.workdir import peers_parent
from plugengine.errors import PlugengineError
from plugengine.kernel.capabilities import CAP_SYS_RESOURCE
from plugengine.kernel.credentials import capget

PEER_IMAGE: Final = "pe-bench"
_READY_S: Final = 30
_PAUSE_S: Final = 0.1
_TAIL: Final = 400
# /run is a tmpfs of the run's own. A socket's path may be 107 characters long (unix(7)), podman's run root 50.
_DOCKER_RUN: Final = "/run/pe-bench-docker"
_PODMAN_RUN: Final = "/run/pe-bench-podman"


class Peer(Protocol):
    """One other engine."""

    name: str
    command: Sequence[str]
    """The words before a subcommand."""
    flags: Sequence[str]
    """Of `run` and `create`."""

    def prepare(self, tar: str) -> Mapping[str, str]:
        """Make it ready to run the image; return what it is made of, by name. Raises: PlugengineError."""

    def close(self) -> None:
        """End what `prepare` started."""


class Docker:
    """A dockerd of the run's own; the client from the same package as the daemon."""

    name = "docker"

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._base = f"{shell.disk}/docker"
        self._daemon: subprocess.Popen[bytes] | None = None
        self.command: Sequence[str] = ()
        self.flags: Sequence[str] = ()

    def prepare(self, tar: str) -> Mapping[str, str]:
        """Start the daemon and import the image."""
        dockerd = find_program("dockerd")
        # A client of another version may stand first in PATH (/usr/local/bin); Debian keeps both below /usr.
        beside = os.path.join(os.path.dirname(os.path.dirname(dockerd)), "bin", "docker")
        client = beside if os.path.isfile(beside) else find_program("docker")
        self.command = [client, "--host", f"unix://{_DOCKER_RUN}/sock"]
        self._start(dockerd)
        self._shell.say([*self.command, "import", tar, PEER_IMAGE])
        version = [*self.command, "version", "--format"]
        return {
            "version": self._shell.say([*version, "{{.Server.Version}}"]),
            "client": self._shell.say([*version, "{{.Client.Version}}"]),
            "storage": self._shell.say([*self.command, "info", "--format", "{{.Driver}}"]),
            "runtime": _first_line(self._shell, ["runc", "--version"]),
        }

    def _start(self, dockerd: str) -> None:
        os.mkdir(self._base)
        os.mkdir(_DOCKER_RUN)
        with open(f"{self._base}/daemon.json", "w", encoding="utf-8") as stream:
            stream.write("{}")
        argv = [dockerd, "--config-file", f"{self._base}/daemon.json", "--host", f"unix://{_DOCKER_RUN}/sock"]
        argv += ["--data-root", f"{self._base}/data", "--exec-root", f"{_DOCKER_RUN}/exec"]
        argv += ["--pidfile", f"{_DOCKER_RUN}/pid", "--cgroup-parent", f"{peers_parent(self._shell.work)}/docker"]
        with open(f"{self._base}/log", "wb") as stream:
            self._daemon = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=self._shell.environment()
            )
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline and self._daemon.poll() is None:
            try:
                self._shell.say([*self.command, "version"])
            except PlugengineError:
                time.sleep(_PAUSE_S)
            else:
                return
        with open(f"{self._base}/log", encoding="utf-8", errors="replace") as log:
            raise PlugengineError(f"dockerd did not come up: {log.read().strip()[-_TAIL:]}")

    def close(self) -> None:
        """End the daemon."""
        if self._daemon is None:
            return
        self._daemon.send_signal(signal.SIGTERM)
        try:
            self._daemon.wait(_READY_S)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()


class Podman:
    """podman with roots and a network directory of its own; no process of it stays between commands."""

    name = "podman"

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._base = f"{shell.disk}/podman"
        # cgroupfs: there is no systemd in the namespace.
        command = ["podman", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        command += ["--root", f"{self._base}/root", "--network-config-dir", f"{self._base}/networks"]
        command += ["--runroot", f"{_PODMAN_RUN}/run", "--tmpdir", f"{_PODMAN_RUN}/temporary"]
        # crun refuses a host with both cgroup versions; with runc both peers share one runtime.
        self.command: Sequence[str] = [*command, "--runtime", "runc"] if shutil.which("runc") else command
        flags = ["--cgroup-parent", f"{peers_parent(shell.work)}/podman"]
        if not capget()[0] >> CAP_SYS_RESOURCE & 1:
            # podman's default limits are above the hard limits of such a process: runc answers EPERM.
            flags += ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]
        self.flags: Sequence[str] = flags

    def prepare(self, tar: str) -> Mapping[str, str]:
        """Import the image."""
        find_program("podman")
        os.mkdir(self._base)
        self._shell.say([*self.command, "import", tar, PEER_IMAGE])
        info = [*self.command, "info", "--format"]
        return {
            "version": self._shell.say(["podman", "version", "--format", "{{.Client.Version}}"]),
            "storage": self._shell.say([*info, "{{.Store.GraphDriverName}}"]),
            "network": self._shell.say([*info, "{{.Host.NetworkBackend}}"]),
            "runtime": self._shell.say([*info, "{{.Host.OCIRuntime.Name}}"]),
            "conmon": _first_line(self._shell, ["conmon", "--version"]),
        }

    def close(self) -> None:
        """Nothing: no process stays between commands."""


def peers(shell: Shell) -> tuple[Peer, ...]:
    """Return the peers, installed or not."""
    return (Docker(shell), Podman(shell))


def _first_line(shell: Shell, argv: Sequence[str]) -> str:
    try:
        return (shell.say(argv).splitlines() or [""])[0]
    except PlugengineError:
        return "unknown"

"""Drivers that are wrong on purpose, and cases that use them."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from plugengine.errors import DriverError
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.kernel.mount import MNT_DETACH, MS_BIND, mount, umount2
from plugengine.kernel.process import CLONE_NEWUTS, unshare
from plugengine.model import Capability, DriverInfo, Host, Rootfs, StorageRequest, Usage
from plugengine.testing import Case, Failure, Unsuitable
from plugengine.testing.cases import CONTRACT

OPEN_FOR_EVER: list[int] = []


class Good:
    """A storage driver that does nothing, and does it well."""

    capabilities: frozenset[Capability] = frozenset()

    @hookimpl
    def pe_storage_info(self) -> DriverInfo:
        return DriverInfo(api_version=API_VERSION, summary="a <b>test's</b> own", capabilities=self.capabilities)

    @hookimpl
    def pe_storage_probe(self, host: Host) -> tuple[str, ...]:
        return ()

    @hookimpl
    def pe_storage_prepare(self, request: StorageRequest) -> dict[str, Any]:
        self.act(request)
        return {}

    @hookimpl
    def pe_storage_mounts(self, request: StorageRequest, record: Any) -> Rootfs:
        return Rootfs()

    @hookimpl
    def pe_storage_usage(self, request: StorageRequest, record: Any) -> Usage:
        return Usage(size_bytes=0, inodes=0)

    @hookimpl
    def pe_storage_remove(self, request: StorageRequest, record: Any) -> None:
        """Remove nothing."""

    def act(self, request: StorageRequest) -> None:
        """Do what the driver is for."""


class Bad(Good):
    """A storage driver whose prepare does one thing it must not do."""

    def __init__(self, act: Callable[[StorageRequest], object]) -> None:
        self._act = act

    def act(self, request: StorageRequest) -> None:
        self._act(request)


def make_case(
    function: Callable[[Any], object], name: str = "try.it", *, deadline_s: float = 10.0, **changes: Any
) -> Case:
    """Return a case that is in no list."""

    def call(subject: Any) -> None:
        function(subject)

    values: dict[str, Any] = {
        "id": f"storage.{name}",
        "sentence": f"What {name} says.",
        "claim": CONTRACT,
        "needs": frozenset(),
        "refused": None,
        "deadline_s": deadline_s,
        "slow": False,
        "function": call,
    }
    return Case(**{**values, **changes})


def prepare(subject: Any) -> None:
    """Have the driver prepare a container."""
    subject.container(()).prepare()


def nothing(subject: Any) -> None:
    """Have the driver do nothing."""


# --- what a hook must not do --------------------------------------------------------------------------------


def hang(_: object) -> None:
    time.sleep(1000)


def hang_in_a_program(_: object) -> None:
    subprocess.run(["sleep", "1000"], check=True)


def open_a_file(_: object) -> None:
    OPEN_FOR_EVER.append(os.open("/etc/passwd", os.O_RDONLY))


def close_a_file(_: object) -> None:
    os.close(0)


def leave_a_child(_: object) -> None:
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "1000"])


def leave_a_zombie(_: object) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def leave_a_daemon(_: object) -> None:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "1000"])
        os._exit(0)
    os.waitpid(pid, 0)


def leave_a_mount(_: object) -> None:
    mount("tmpfs", "/mnt", "tmpfs")


def leave_a_mount_in_scratch(request: StorageRequest) -> None:
    mount("/etc", request.directory, None, MS_BIND)  # what is below it must survive the clearing up


def take_a_mount_away(_: object) -> None:
    umount2("/dev/shm", MNT_DETACH)


def change_the_directory(_: object) -> None:
    os.chdir("/etc")


def change_the_root(_: object) -> None:
    os.chroot("/usr")


def change_the_umask(_: object) -> None:
    os.umask(0o077)


def change_the_environment(_: object) -> None:
    os.environ["KIT_TEST"] = "1"


def change_a_handler(_: object) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def block_a_signal(_: object) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])


def change_a_namespace(_: object) -> None:
    unshare(CLONE_NEWUTS)


def change_the_user(_: object) -> None:
    os.setegid(1)


def leave_a_thread(_: object) -> None:
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()


def leave_a_socket(_: object) -> None:
    OPEN_FOR_EVER.append(socket.socket().detach())


def exit_at_once(_: object) -> None:
    os._exit(3)


def exit_politely(_: object) -> None:
    sys.exit("enough")


def kill_itself(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_its_group(_: object) -> None:
    os.killpg(0, signal.SIGKILL)


def crash(_: object) -> None:
    ctypes.string_at(0)


def divide(_: object) -> None:
    _ = 1 // 0


def complain(_: object) -> None:
    raise DriverError("the moon is full", hint="wait")


# --- what cases do ------------------------------------------------------------------------------------------


def fail(_: object) -> None:
    raise Failure("<seen>, not wanted")


def cannot(_: object) -> None:
    raise Unsuitable("no such <device>")


def speak(_: object) -> None:
    sys.stdout.write("said on output\n")
    sys.stderr.write("said on error\n")
    raise Failure("spoke")


def come_back_twice(_: object) -> None:
    """Let a forked child run on into the kit."""
    os.fork()

"""Look into a container from outside, whether it runs or not: its root filesystem, and what it changes."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import contextmanager
from typing import Final, NoReturn

from plugengine.containers.requests import storage_request
from plugengine.containers.steps import Live, Runner
from plugengine.containers.storage_steps import rootfs_steps
from plugengine.errors import ConflictError, DriverError
from plugengine.kernel import credentials, mount, process
from plugengine.model import Capability, Change, HostPath, Rootfs, StorageRequest, Upper, UserMap
from plugengine.state.container_rows import LIVE, ContainerRow
from plugengine.trees.walk import DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from plugengine.plugins.drivers import StorageDriver
    from plugengine.site import Site

_OPENED: Final = b"+"
_MESSAGE_BYTES: Final = 4096


@contextmanager
def root_filesystem(site: Site, row: ContainerRow, *, read_only: bool = True) -> Iterator[int]:
    """Give a descriptor of a container's root directory, without what is mounted there for the guest.

    Of a container that does not run, a process of its own mounts it, in a mount namespace that ends with the process.
    What is `read_only` keeps its times of access, too; the root of a running container is as it is.

    Raises:
        DriverError: It cannot be mounted.
    """
    if row.status in LIVE and row.state.monitor_pid:
        # The monitor is the engine's own, so /proc/PID/root leads where it should.
        try:
            fd = os.open(f"/proc/{row.state.monitor_pid}/root{site.locations.rootfs(row.id)}", DIRECTORY)
        except FileNotFoundError:
            raise ConflictError(f"container {row.name}: has just ended") from None
        try:
            yield fd
        finally:
            os.close(fd)
        return
    request = storage_request(site, row, row.records, read_only=read_only)
    rootfs = site.drivers(row.choice).storage.mounts(request, row.records["storage"])
    with _mounted(site, row, rootfs, request.target) as fd:
        yield fd


def changes(site: Site, row: ContainerRow) -> Iterator[Change]:
    """Yield the differences to the image: by the storage driver's upper directory, else what a comparison finds."""
    storage = site.drivers(row.choice).storage
    request = storage_request(site, row, row.records)
    if _keeps_changes(storage, request):
        from plugengine.trees import upper

        found = storage.upper(request, row.records["storage"])
        yield from upper.changes(found.directory, request.chain, found.user_map)
        return
    from plugengine.trees.compare import compare

    with root_filesystem(site, row) as fd:
        yield from compare(request.chain, fd, _shown_outside(storage, row, request))


@contextmanager
def overlay_form(site: Site, row: ContainerRow) -> Iterator[Upper]:
    """Give a directory with the differences to the image in overlay form; for reading, and only within the block.

    Raises:
        DriverError, OSError: It cannot be made.
    """
    storage = site.drivers(row.choice).storage
    request = storage_request(site, row, row.records)
    if _keeps_changes(storage, request):
        yield storage.upper(request, row.records["storage"])
        return
    from plugengine.images.scratch import Scratch
    from plugengine.trees.derive_upper import write_upper
    from plugengine.trees.remove import remove_tree

    with Scratch(site.locations.tmp) as work:
        directory = work.directory("upper")
        user_map = _shown_outside(storage, row, request)
        try:
            with root_filesystem(site, row) as fd:
                write_upper(request.chain, fd, directory, user_map)
            yield Upper(directory=directory, user_map=user_map)
        finally:
            remove_tree(directory)  # which may be deeper than any image


def _keeps_changes(storage: StorageDriver, request: StorageRequest) -> bool:
    """Tell whether the upper directory is what changed: not where every file got another owner at the first start."""
    claimed = storage.info.capabilities
    return Capability.NATIVE_DIFF in claimed and (request.user_map is None or Capability.USER_MAP in claimed)


def _shown_outside(storage: StorageDriver, row: ContainerRow, request: StorageRequest) -> UserMap | None:
    """Return the map outside of which the owners in the container's root filesystem are.

    A driver that shows no mapped owners has those of the image until the first start, which changes them.
    """
    shown = Capability.USER_MAP in storage.info.capabilities or row.state.started_ns
    return request.user_map if shown else None


@contextmanager
def _mounted(site: Site, row: ContainerRow, rootfs: Rootfs, target: HostPath) -> Iterator[int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs, process.bare_children():
            pid, pidfd = process.clone3(process.CLONE_NEWNS)
            if pid == 0:
                ours.close()
                _hold(site, row, rootfs, target, theirs)
        try:
            said, fds, _flags, _address = socket.recv_fds(ours, _MESSAGE_BYTES, 1)
            if said != _OPENED:
                raise DriverError(
                    f"look into container {row.name}: {said.decode() or 'its storage could not be mounted'}"
                )
            try:
                yield fds[0]
            finally:
                os.close(fds[0])
        finally:
            ours.close()
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            os.close(pidfd)
    finally:
        ours.close()


def _hold(site: Site, row: ContainerRow, rootfs: Rootfs, target: HostPath, connection: socket.socket) -> NoReturn:
    """Mount, hand the root over, and keep it until the other side closes the connection; in a process of its own."""
    code = 1
    try:
        credentials.set_pdeathsig(signal.SIGKILL)
        mount.mount("none", "/", "", mount.MS_REC | mount.MS_PRIVATE, "")
        # Over everybody's run directories, so that mount points made for this purpose are nobody else's.
        mount.mount("tmpfs", site.locations.run_containers, "tmpfs", 0, "mode=0700")
        os.makedirs(target)
        runner = Runner(Live(site, site.drivers(row.choice), log=lambda _line: None))
        mounts, ready = rootfs_steps(rootfs, site.locations.server_log(row.id))
        runner.run([*mounts, *ready])
        root = os.open(target, DIRECTORY)
        socket.send_fds(connection, [_OPENED], [root])
        os.close(root)  # or a server would never see its mount go
        connection.recv(1)
        runner.unwind()
        code = 0
    except Exception as exc:  # noqa: BLE001 - there is nobody above
        connection.send(str(exc).encode()[:_MESSAGE_BYTES])
    finally:
        os._exit(code)

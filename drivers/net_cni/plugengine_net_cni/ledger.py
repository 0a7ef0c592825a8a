"""What was added, on disk: written before ADD, so that an interrupted one can be undone, by any engine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from msgspec import Struct
from plugengine.kernel import netns
from plugengine.kernel.process import ProcessId, boot_id, is_alive
from plugengine.model import Network, Port

from plugengine_net_cni.chain import Connection

# Beside what the plugins keep themselves (host-local: /var/lib/cni/networks), and as lasting: a lease of an address
# outlives a reboot, and so must the knowledge whose it is. GC needs the attachments of every engine of the host.
DIRECTORY = "/var/lib/cni/plugengine"
_LOCK = "lock"
_SUFFIX = ".json"


class Entry(Struct, frozen=True, kw_only=True):
    """One container on one network, and the process that answers for it."""

    connection: Connection
    network: str  # the engine's name of it
    engine: str = ""  # Network.owner
    ports: tuple[Port, ...] = ()
    owner: tuple[int, int] = (0, 0)  # ProcessId
    boot_id: str = ""
    host: tuple[int, int] = (0, 0)  # NetnsId of the namespace that is the host's for it

    def abandoned(self) -> bool:
        """Tell whether the process that added it is gone, and nobody but us can take it back."""
        if self.boot_id == boot_id() and is_alive(ProcessId(*self.owner)):
            return False
        return self.boot_id != boot_id() or self.ours() or not _exists(self.host)

    @property
    def hopeless(self) -> bool:
        """Whether a DEL that fails will fail for ever, with nothing left but what a plugin keeps in files.

        So it is when ADD never came to its end, and when the rules and links went with their network namespace.
        """
        return self.connection.result is None or not self.ours()

    def ours(self) -> bool:
        """Tell whether its host is the network namespace we are in; ports and rules of another are others."""
        return self.boot_id == boot_id() and tuple(self.host) == _here()


def entry(connection: Connection, network: Network, ports: tuple[Port, ...]) -> Entry:
    """Return an entry this process answers for."""
    me = ProcessId.of(os.getpid())
    return Entry(
        connection=connection,
        network=network.name,
        engine=network.owner,
        ports=ports,
        owner=(me.pid, me.start_time) if me else (0, 0),
        boot_id=boot_id(),
        host=_here(),
    )


def _here() -> netns.NetnsId:
    fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return netns.identify(fd)
    finally:
        os.close(fd)


def _exists(namespace: tuple[int, int]) -> bool:
    fd = netns.find(netns.NetnsId(*namespace))
    if fd is not None:
        os.close(fd)
    return fd is not None


@contextmanager
def locked() -> Iterator[None]:
    """Keep other processes from choosing ports meanwhile."""
    os.makedirs(DIRECTORY, mode=0o700, exist_ok=True)
    fd = os.open(os.path.join(DIRECTORY, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def load(container_id: str, network: str) -> Entry | None:
    """Return what is known of a container on a network."""
    return _read(_path(container_id, network))


def load_all() -> list[Entry]:
    """Return every entry of the host."""
    try:
        names = sorted(name for name in os.listdir(DIRECTORY) if name.endswith(_SUFFIX))
    except FileNotFoundError:
        return []
    return [found for name in names if (found := _read(os.path.join(DIRECTORY, name))) is not None]


def save(kept: Entry) -> None:
    """Write an entry; after a crash it is the old or the new one."""
    os.makedirs(DIRECTORY, mode=0o700, exist_ok=True)
    path = _path(kept.connection.container_id, kept.network)
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "wb") as stream:
        stream.write(msgspec.json.encode(kept))
    os.replace(temporary, path)


def sweep() -> None:
    """Remove what writers that were killed left half written."""
    try:
        names = os.listdir(DIRECTORY)
    except FileNotFoundError:
        return
    for name in names:
        writer = name.rpartition(".")[2]
        if writer.isdecimal() and not os.path.exists(f"/proc/{writer}"):
            os.unlink(os.path.join(DIRECTORY, name))


def forget(container_id: str, network: str) -> None:
    """Remove an entry; one that is not there is fine."""
    try:
        os.unlink(_path(container_id, network))
    except FileNotFoundError:
        pass


def _read(path: str) -> Entry | None:
    try:
        with open(path, "rb") as stream:
            return msgspec.json.decode(stream.read(), type=Entry)
    except (OSError, msgspec.MsgspecError):
        return None


def _path(container_id: str, network: str) -> str:
    return os.path.join(DIRECTORY, f"{container_id}-{network}{_SUFFIX}")

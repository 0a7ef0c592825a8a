"""The steps that build the inside of a container: pure values, which the child executes in order."""

from __future__ import annotations

import os
from typing import Protocol

from msgspec import Struct
from plugengine.kernel.mount import MOUNT_ATTR_RDONLY
from plugengine.model import UserMap

Parameters = tuple[tuple[bytes, bytes | None], ...]  # of a filesystem, in order; see fsconfig(2)


class GuestStep(Protocol):
    """One action of the child."""

    def describe(self) -> str:
        """Say what the step does, in one line."""


class MakePrivate(Struct, frozen=True, kw_only=True):
    """Stop events of the host's mounts from coming in, and of ours from going out; mount_namespaces(7)."""

    def describe(self) -> str:
        """Return what it does, in one line."""
        return "make every mount private"


class AttachRoot(Struct, frozen=True, kw_only=True):
    """Put a copy of the root filesystem's mount where it can be pivoted to."""

    source: bytes

    def describe(self) -> str:
        """Return what it does, in one line."""
        return f"attach the root filesystem {os.fsdecode(self.source)}"


class MountNew(Struct, frozen=True, kw_only=True):
    """A new filesystem on a directory that no symbolic link of the image may lead elsewhere."""

    fstype: bytes
    target: bytes
    attributes: int = 0  # MOUNT_ATTR_*
    parameters: Parameters = ()
    optional: bool = False  # a kernel without this type is fine

    def describe(self) -> str:
        """Return what it does, in one line."""
        return f"mount {os.fsdecode(self.fstype)} on {os.fsdecode(self.target)}{_mode(self.attributes)}"


class MountTmpfs(Struct, frozen=True, kw_only=True):
    """A tmpfs the caller asked for."""

    target: bytes
    attributes: int = 0
    parameters: Parameters = ()

    def describe(self) -> str:
        """Return what it does, in one line."""
        return f"mount tmpfs on {os.fsdecode(self.target)}{_mode(self.attributes)}"


class MountTree(Struct, frozen=True, kw_only=True):
    """A directory or file of the host; a missing mount point is made."""

    source: bytes
    target: bytes
    attributes: int = 0
    propagation: int = 0  # MS_PRIVATE, MS_SLAVE, MS_SHARED
    recursive: bool = False
    follow: bool = True  # links of the image on the way to the target, inside its root
    user_map: UserMap | None = None  # id-mapped
    volume: bytes = b""  # name of the volume the source is
    subpath: bytes = b""  # in that volume; the mount begins there

    @property
    def inside_proc(self) -> bool:
        """The target is one of the few files of procfs that may be covered."""
        return self.target.startswith(b"/proc/")

    def describe(self) -> str:
        """Return what it does, in one line."""
        part = f", path {os.fsdecode(self.subpath)} in it," if self.subpath else ""
        return f"bind {os.fsdecode(self.source)}{part} on {os.fsdecode(self.target)}{_mode(self.attributes)}"


class Node(Struct, frozen=True):
    """A device node."""

    path: bytes
    mode: int  # with S_IFCHR or S_IFBLK
    device: int  # os.makedev
    uid: int = 0
    gid: int = 0


class MakeNodes(Struct, frozen=True, kw_only=True):
    """Device nodes, by number."""

    nodes: tuple[Node, ...]

    def describe(self) -> str:
        """Return what it does, in one line."""
        return "make " + " ".join(os.fsdecode(node.path) for node in self.nodes)


class BindNodes(Struct, frozen=True, kw_only=True):
    """The host's own device nodes, where none can be made: mknod(2) needs CAP_MKNOD in the initial user namespace."""

    nodes: tuple[tuple[bytes, bytes], ...]  # host path, guest path

    def describe(self) -> str:
        """Return what it does, in one line."""
        return "bind " + " ".join(os.fsdecode(guest) for _host, guest in self.nodes)


class MakeLinks(Struct, frozen=True, kw_only=True):
    """Symbolic links in /dev."""

    links: tuple[tuple[bytes, bytes], ...]  # path, target

    def describe(self) -> str:
        """Return what it does, in one line."""
        return "link " + " ".join(os.fsdecode(path) for path, _target in self.links)


class MakeConsole(Struct, frozen=True, kw_only=True):
    """A pseudoterminal of the container's own devpts, and /dev/console as its other name."""

    bind: bool = True  # not where /dev is the caller's

    def describe(self) -> str:
        """Return what it does, in one line."""
        return "open a terminal and bind it on /dev/console" if self.bind else "open a terminal"


class WriteSysctl(Struct, frozen=True, kw_only=True):
    """One kernel parameter of the container's own namespaces."""

    path: bytes  # below /proc/sys
    value: bytes
    optional: bool = False

    def describe(self) -> str:
        """Return what it does, in one line."""
        return f"set {os.fsdecode(self.path).replace('/', '.')} to {os.fsdecode(self.value)}"


class SetNames(Struct, frozen=True, kw_only=True):
    """Host and domain name of the container's own UTS namespace; uts_namespaces(7)."""

    hostname: bytes
    domainname: bytes = b""

    def describe(self) -> str:
        """Return what it does, in one line."""
        return f"set hostname to {os.fsdecode(self.hostname)}"


class MaskPath(Struct, frozen=True, kw_only=True):
    """Hide a file behind the null device, a directory behind an empty one."""

    path: bytes

    def describe(self) -> str:
        """Return what it does, in one line."""
        return f"mask {os.fsdecode(self.path)}"


class ReadOnlyPath(Struct, frozen=True, kw_only=True):
    """Make a part of procfs or sysfs read-only."""

    path: bytes

    def describe(self) -> str:
        """Return what it does, in one line."""
        return f"make {os.fsdecode(self.path)} read-only"


class MakeDirectory(Struct, frozen=True, kw_only=True):
    """The working directory, if it is missing."""

    path: bytes

    def describe(self) -> str:
        """Return what it does, in one line."""
        return f"make directory {os.fsdecode(self.path)}"


class ReadOnlyMount(Struct, frozen=True, kw_only=True):
    """Make one mount read-only, now that everything below it is in place."""

    path: bytes

    def describe(self) -> str:
        """Return what it does, in one line."""
        return f"make the mount on {os.fsdecode(self.path)} read-only"


class PivotRoot(Struct, frozen=True, kw_only=True):
    """Make the root filesystem the root, and let go of the host's; pivot_root(2)."""

    def describe(self) -> str:
        """Return what it does, in one line."""
        return "change the root and detach the host's"


def _mode(attributes: int) -> str:
    return " read-only" if attributes & MOUNT_ATTR_RDONLY else ""

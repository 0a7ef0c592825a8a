"""The state of one union: its layers, its nodes, and how an object is reached by descriptor."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from plugengine_fuse_union import markers
from plugengine_fuse_union.durability import DataFirst
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.kept_listings import KeptListings
from plugengine_fuse_union.layers import DIRECTORY_FLAGS, Descriptors, LayerDir, PrivateMounts, layer_fd
from plugengine_fuse_union.nodes import DirNode, Node, close_kept, unpin
from plugengine_fuse_union.owners import Owners
from plugengine_fuse_union.redirects import with_blocks_of
from plugengine_fuse_union.stage import Stage
from plugengine_fuse_union.transfer import DataCopier

if TYPE_CHECKING:
    from plugengine_fuse_union.quota import Quota

ROOT_ID: Final = 1
# st_ino of other filesystems than the upper's get the filesystem's index in their top byte, as overlayfs' xino.
_DEVICE_SHIFT: Final = 56


class Union:
    """Layers, nodes and descriptors; the operations are functions of the modules beside this one."""

    def __init__(
        self,
        lowers: Sequence[bytes],
        upper: bytes | None = None,
        work: bytes | None = None,
        *,
        owners: Owners | None = None,
        descriptor_limit: int = 512,
        durable: bool = True,
    ) -> None:
        """Open the layers.

        Args:
            lowers: Layer directories, topmost first.
            upper: Directory that takes the changes; None: the union is read-only.
            work: Directory on the same filesystem as `upper`, for what is not complete yet.
            owners: Translation of owners between disk and kernel.
            descriptor_limit: Directory descriptors kept between requests.
            durable: Whether data reaches the disk before a copied file takes its place, and fsync does anything.
        """
        self.owners = owners
        self.durable = durable
        self.descriptors = Descriptors(descriptor_limit)
        self._most_kept = descriptor_limit
        self.nodes: dict[int, Node] = {}
        self.links: dict[int, Node] = {}  # upper files with several names, by their own inode number
        self._next_id = ROOT_ID
        self.listings = KeptListings()
        self._devices: dict[int, int] = {}
        upper_fd = -1 if upper is None else os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if upper_fd >= 0:
            self._devices[os.fstat(upper_fd).st_dev] = 0
        self.copier = DataCopier()
        self.data_first = DataFirst(upper_fd) if durable else None
        self.whiteout_files = False  # whether layers may also hold whiteouts in the form of archives
        self.follows = False  # whether marks of overlayfs for what was moved or copied without its data are heeded
        self.metacopy = False  # whether of these the latter are believed, and not refused
        self.quota: Quota | None = None  # what the upper directory may take, where that is limited
        self.stage = None if work is None or upper is None else Stage(work)
        self.root = self._open_root(upper_fd, lowers)
        self.remember(self.root)
        self.stale: list[int] = []  # nodes whose attributes changed by copy-up, for the transport to invalidate
        self.on_drop: Callable[[Node], None] = _nothing  # told of nodes whose data nobody needs any more
        self._kept: deque[Node] = deque()  # whose `kept` was set last; it may be used up by now
        self.fresh_copies: set[int] = set()  # files whose new place no fsync has brought to the disk yet
        self.made_flags = os.O_RDWR  # how a new file is opened for who made it
        self.removed: set[int] = set()  # nodes whose last name is gone, and that are held by descriptor
        self.umask = 0
        os.umask(0)

    def _open_root(self, upper_fd: int, lowers: Sequence[bytes]) -> DirNode:
        mounts = PrivateMounts()
        layers = []
        for path in lowers:
            fd, status = mounts.open(path)
            device = self._devices.setdefault(status.st_dev, len(self._devices))
            layers.append(LayerDir(None, b"", device, fd))
        top = upper_fd if upper_fd >= 0 else layers[0].fd
        root = DirNode(None, b"", stat.S_IFDIR, 0, upper=upper_fd >= 0)
        root.lowers = tuple(layers)
        root.fd = upper_fd
        shown, device = (layers[0].fd, layers[0].device) if layers else (top, 0)
        root.ino = self.number(os.fstat(shown).st_ino, device)
        root.impure = root.upper and markers.is_impure(upper_fd, b".")
        return root

    def number(self, ino: int, device: int) -> int:
        """Return the st_ino to show for an inode of a layer's filesystem."""
        return ino ^ (device << _DEVICE_SHIFT)

    # --- the table of nodes

    def get(self, nodeid: int) -> Node:
        """Return a node the kernel names.

        Raises:
            OSError: ESTALE for a number never given out.
        """
        try:
            return self.nodes[nodeid]
        except KeyError:
            raise refused(errno.ESTALE) from None

    def directory(self, nodeid: int) -> DirNode:
        """Return a node that must be a directory."""
        node = self.get(nodeid)
        if not isinstance(node, DirNode):
            raise refused(errno.ENOTDIR)
        return node

    def remember(self, node: Node) -> int:
        """Count one reference of the kernel and return the node's number."""
        if node.nodeid == 0:
            node.nodeid = self._next_id
            self._next_id += 1
            self.nodes[node.nodeid] = node
        node.lookups += 1
        return node.nodeid

    def forget(self, nodeid: int, count: int) -> None:
        """Take back references; see FORGET of the FUSE protocol."""
        node = self.nodes.get(nodeid)
        if node is None or node is self.root:
            return
        node.lookups -= count
        if node.lookups <= 0:
            self.drop(node)

    def drop(self, node: Node) -> None:
        """Let a node go that nobody holds, and its parents if they were waiting for it."""
        while node.lookups <= 0 and node is not self.root:
            if isinstance(node, DirNode) and node.children:
                return
            self._detach(node)
            node = node.parent

    def _detach(self, node: Node) -> None:
        if node.opened is not None:
            self.on_drop(node)
        self.nodes.pop(node.nodeid, None)
        self.removed.discard(node.nodeid)
        self.fresh_copies.discard(node.nodeid)
        for parent, name in ((node.parent, node.name), *(node.names or ())):
            if parent.children.get(name) is node:
                del parent.children[name]
        if node.link:
            self.links.pop(node.link, None)
        unpin(node)
        close_kept(node)
        if node.successor is not None:
            node.successor.twin = False
            self.forget(node.successor.nodeid, 1)

    # --- descriptors

    def upper_fd(self, node: DirNode) -> int:
        """Return the descriptor of a directory in upper, which `node.upper` says it has."""
        if node.fd >= 0:
            return node.fd
        closed: list[DirNode] = [node]
        while closed[-1].parent.fd < 0:
            closed.append(closed[-1].parent)
        for entry in reversed(closed):
            entry.fd = os.open(entry.name, DIRECTORY_FLAGS, dir_fd=entry.parent.fd)
            self.descriptors.add(entry)
        return node.fd

    def lower_fd(self, directory: LayerDir) -> int:
        """Return the descriptor of a layer's directory."""
        return layer_fd(directory, self.descriptors)

    def place(self, node: Node) -> tuple[int, bytes]:
        """Return the directory descriptor and name that lead to what is shown; not for the root or a pinned node."""
        if node.upper:
            return self.upper_fd(node.parent), node.name
        if isinstance(node, DirNode):
            top = node.lowers[0]
            return (layer_fd(top.parent, self.descriptors), top.name) if top.parent else (top.fd, b".")
        if node.lower is None:
            raise refused(errno.ESTALE)
        return layer_fd(node.lower, self.descriptors), node.name

    def status(self, node: Node) -> os.stat_result:
        """Return the attributes of what is shown."""
        status = self.stored(node)
        return status if node.data is None else with_blocks_of(status, node.data.status)

    def stored(self, node: Node) -> os.stat_result:
        """Return the attributes on disk, which are those to show but for files whose data lies elsewhere."""
        fd = node.fd if node.fd >= 0 else node.kept
        if fd < 0 and not node.upper and isinstance(node, DirNode):
            fd = node.lowers[0].fd
        if fd >= 0:
            return os.fstat(fd)
        dir_fd, name = self.place(node)
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)

    def open_data(self, node: Node, flags: int) -> int:
        """Open a regular file or directory itself; the caller closes it."""
        if node.data is not None:
            dir_fd = layer_fd(node.data.directory, self.descriptors)
            return os.open(node.data.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
        if node.fd >= 0:
            return self._reopen(node, flags)
        dir_fd, name = self.place(node)
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)

    def _reopen(self, node: Node, flags: int) -> int:
        if isinstance(node, DirNode):
            return os.open(b".", flags | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=node.fd)
        # A file without a name can only be opened again through /proc; proc_pid_fd(5).
        return os.open(b"/proc/self/fd/%d" % node.fd, flags | os.O_CLOEXEC)

    def keep(self, node: Node, fd: int) -> None:
        """Take over a descriptor of an upper file: a new file is soon looked at again."""
        close_kept(node)
        node.kept = fd
        self._kept.append(node)
        if len(self._kept) > self._most_kept:
            close_kept(self._kept.popleft())

    def pin(self, node: Node) -> None:
        """Hold the object of an upper node by descriptor, as its name is about to lead elsewhere."""
        if node.fd >= 0 or not node.upper:
            return
        if node.kept >= 0:
            node.fd, node.kept = node.kept, -1
            return
        if isinstance(node, DirNode):
            self.upper_fd(node)
            return
        flags = os.O_NOFOLLOW | os.O_CLOEXEC
        flags |= os.O_RDONLY if stat.S_ISREG(node.kind) else os.O_PATH
        node.fd = os.open(node.name, flags, dir_fd=self.upper_fd(node.parent))

    def require_writable(self) -> Stage:
        """Return the staging directory.

        Raises:
            OSError: EROFS without an upper directory.
        """
        if self.stage is None:
            raise refused(errno.EROFS)
        return self.stage


def _nothing(_: Node) -> None:
    """Stand in for a transport that keeps nothing."""

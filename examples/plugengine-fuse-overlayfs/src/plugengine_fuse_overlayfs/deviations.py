"""What release 1.10 of fuse-overlayfs does otherwise than a filesystem should, as the conformance kit finds it."""

from __future__ import annotations

from typing import Final

from plugengine.model import Deviation

DEVIATIONS: Final = (
    Deviation(
        why="copying a file up changes the time of its directory",
        cases=(
            "storage.content.delete",
            "storage.content.delete-and-create-file",
            "storage.content.empty-layers",
            "storage.content.file-capabilities",
            "storage.content.huge-directory",
            "storage.content.large-file",
            "storage.content.metadata-only-layer",
            "storage.content.modify",
            "storage.content.opaque",
            "storage.content.owners",
            "storage.content.rename-file",
            "storage.content.replace-kind",
            "storage.content.replaced-in-layers",
            "storage.content.symlinks",
            "storage.content.times",
            "storage.content.times-of-copies",
            "storage.content.xattrs",
            "storage.contract.ephemeral",
            "storage.contract.remount",
            "storage.crash.while-working",
            "storage.layers.generations",
            "storage.posix.allocate",
            "storage.posix.appending",
            "storage.posix.attribute-errors",
            "storage.posix.chmod-open",
            "storage.posix.chown-clears-set-id",
            "storage.posix.execute",
            "storage.posix.link-to-symlink",
            "storage.posix.list-again",
            "storage.posix.list-while-deleting",
            "storage.posix.mapped-writes",
            "storage.posix.offsets",
            "storage.posix.permissions",
            "storage.posix.poll",
            "storage.posix.read-sees-write",
            "storage.posix.record-locks",
            "storage.posix.rmdir-with-new-file",
            "storage.posix.times-move",
            "storage.posix.truncate",
            "storage.posix.truncating-open",
            "storage.posix.trusted-attributes-are-roots",
            "storage.posix.two-writers",
            "storage.posix.waiting-lock",
            "storage.posix.whole-file-locks",
            "storage.posix.write-clears-set-id",
        ),
    ),
    Deviation(
        why="a file with several names is copied up as several files, with different owners",
        cases=(
            "storage.concurrency.gc-beside",
            "storage.concurrency.lives",
            "storage.crash.gc",
            "storage.crash.server",
            "storage.layers.read-by-others",
            "storage.space.full",
        ),
        sometimes=True,  # which name comes first depends on timing
    ),
    Deviation(
        why="who empties a set-id file by opening it leaves the bits",
        cases=("storage.posix.set-id-goes-with-every-change", "storage.posix.set-id-stays-by-capability"),
    ),
    Deviation(
        why="an unlinked open file still counts a link",
        cases=("storage.posix.unlinked-file",),
    ),
    Deviation(
        why="several first writers of a file of the image lose each other's writes",
        cases=("storage.concurrency.same-first-write",),
        sometimes=True,
    ),
    Deviation(
        why="a directory that is copied up loses its set-group-id bit",
        cases=("storage.content.modes",),
    ),
    Deviation(
        why="default access lists are not inherited: the umask is applied first",
        cases=("storage.content.access-lists",),
    ),
    Deviation(
        why="names end at 251 bytes: four are kept for a prefix",
        cases=(
            "storage.content.names",
            "storage.posix.long-names",
            "storage.posix.statistics",
        ),
    ),
    Deviation(
        why="named pipes, sockets and devices of the image cannot be copied up: EIO",
        cases=(
            "storage.content.special-files",
            "storage.posix.chmod-kinds",
            "storage.posix.pipes",
        ),
    ),
    Deviation(
        why="directories of the image cannot be exchanged: EXDEV",
        cases=("storage.posix.rename-exchange",),
    ),
    Deviation(
        why="files without a name (O_TMPFILE) are not supported",
        cases=(
            "storage.posix.tmpfile",
            "storage.posix.tmpfile-exclusive",
        ),
    ),
)

"""Content: attributes, modes, times, odd names, special files and large things."""

from __future__ import annotations

import os
import socket
import stat
import struct
from typing import Final

from plugengine.testing.cases import case, expect, expect_equal
from plugengine.testing.storage.content import BOTH, write
from plugengine.testing.storage.described import Item, device, directory, fifo, file
from plugengine.testing.storage.pair import Pair, same
from plugengine.testing.storage.snapshot import expect_same
from plugengine.testing.storage.subject import Subject

# include/uapi/linux/capability.h: VFS_CAP_REVISION_2 with the effective bit; CAP_NET_RAW is bit 13
_CAP_NET_RAW: Final = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
# include/uapi/linux/posix_acl_xattr.h: version 2, then (tag, permissions, id)
_ACL_HEAD: Final = struct.pack("<I", 2)
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_NOBODY_ID: Final = 0xFFFFFFFF
_ACCESS: Final = "system.posix_acl_access"
_DEFAULT: Final = "system.posix_acl_default"
_HUGE: Final = 5_000
_MIB: Final = 1 << 20
_LARGE_BYTES: Final = 50 * _MIB


def access_list(user: int, permissions: int) -> bytes:
    """Return an access list that gives one more user permissions."""
    rows = [(_USER_OBJ, 7, _NOBODY_ID), (_USER, permissions, user), (_GROUP_OBJ, 5, _NOBODY_ID)]
    rows += [(_MASK, 7, _NOBODY_ID), (_OTHER, 0, _NOBODY_ID)]
    return _ACL_HEAD + b"".join(struct.pack("<HHI", *row) for row in rows)


@case("storage.content.xattrs")
def xattrs(subject: Subject) -> None:
    """Extended attributes of user and trusted are shown, set, changed and removed, on files and directories."""
    layer = (
        directory("", 0o755),
        directory("d", xattrs={"user.of-directory": b"d"}),
        file("f", "f\n", xattrs={"user.one": b"1", "user.two": bytes(range(256)), "user.empty": b""}),
        file("plain", "p\n"),
    )

    def change(root: str) -> None:
        os.setxattr(f"{root}/f", "user.one", b"changed")
        os.removexattr(f"{root}/f", "user.two")
        os.setxattr(f"{root}/d", "user.new", b"n" * 1000)

    def trusted(root: str) -> None:
        os.setxattr(f"{root}/plain", "trusted.mine", b"t")
        os.setxattr(f"{root}/d", "trusted.mine", b"t")

    def create_and_replace(root: str) -> list[object]:
        found: list[object] = []
        for name, flags in (("user.one", os.XATTR_CREATE), ("user.none", os.XATTR_REPLACE)):
            try:
                os.setxattr(f"{root}/f", name, b"x", flags)
            except OSError as exc:
                found.append(exc.errno)
        return found

    same(subject, (layer,), change, trusted, create_and_replace, lambda root: os.getxattr(f"{root}/f", "user.none"))


@case("storage.content.file-capabilities")
def file_capabilities(subject: Subject) -> None:
    """File capabilities of a layer are shown; a change of mode keeps them, a write takes them away."""
    layer = (
        directory("", 0o755),
        *(file(name, "program\n", 0o755, xattrs={"security.capability": _CAP_NET_RAW}) for name in ("kept", "written")),
    )

    def change_mode(root: str) -> None:
        os.chmod(f"{root}/kept", 0o700)

    def written(root: str) -> None:
        with open(f"{root}/written", "a", encoding="ascii") as stream:
            stream.write("more")

    def set_anew(root: str) -> None:
        os.setxattr(f"{root}/written", "security.capability", _CAP_NET_RAW)

    same(subject, (layer,), change_mode, written, set_anew)


@case("storage.content.access-lists")
def access_lists(subject: Subject) -> None:
    """Access lists of a layer are shown, those of a directory are inherited, and they can be changed."""
    layer = (
        directory("", 0o755),
        directory("d", 0o750, xattrs={_ACCESS: access_list(5, 7), _DEFAULT: access_list(6, 6)}),
        file("f", "f\n", 0o750, xattrs={_ACCESS: access_list(5, 4)}),
    )

    def inherit(root: str) -> None:
        write(f"{root}/d/file", "f\n")
        os.mkdir(f"{root}/d/sub")

    def change(root: str) -> None:
        os.setxattr(f"{root}/f", _ACCESS, access_list(9, 6))
        os.removexattr(f"{root}/d", _DEFAULT)

    same(subject, (layer,), inherit, change)


@case("storage.content.special-files")
def special_files(subject: Subject) -> None:
    """Devices, pipes and sockets are shown, made, changed and deleted."""
    layer = (directory("", 0o755), device("null", "c", 1, 3, 0o666), device("disk", "b", 7, 99), fifo("pipe", 0o640))

    def make(root: str) -> None:
        os.mknod(f"{root}/zero", stat.S_IFCHR | 0o644, os.makedev(1, 5))
        os.mknod(f"{root}/block", stat.S_IFBLK | 0o600, os.makedev(8, 250))
        os.mkfifo(f"{root}/fifo")
        with socket.socket(socket.AF_UNIX) as server:
            here = os.open(root, os.O_PATH | os.O_CLOEXEC)
            try:  # a socket's name is limited to 108 bytes
                server.bind(f"/proc/self/fd/{here}/socket")
            finally:
                os.close(here)

    def change(root: str) -> None:
        os.chmod(f"{root}/null", 0o600)
        os.chown(f"{root}/pipe", 3, 3)
        os.rename(f"{root}/disk", f"{root}/disk2")

    def delete(root: str) -> None:
        os.unlink(f"{root}/zero")
        os.unlink(f"{root}/null")

    same(subject, (layer,), make, change, delete)


@case("storage.content.modes")
def modes(subject: Subject) -> None:
    """Set-user-id, set-group-id and sticky bits are shown, set, and inherited as on any filesystem."""
    layer = (
        directory("", 0o755),
        file("suid", "s\n", 0o4755, uid=9),
        directory("shared", 0o2775, gid=50),
        directory("tmp", 0o1777),
        file("none", "n\n", 0),
    )

    def inherit(root: str) -> None:
        write(f"{root}/shared/file", "f\n")
        os.mkdir(f"{root}/shared/sub")

    def change(root: str) -> None:
        os.chmod(f"{root}/none", 0o6711)
        os.chmod(f"{root}/tmp", 0o755)
        os.chown(f"{root}/suid", 10, 11)

    def write_as_root(root: str) -> None:
        with open(f"{root}/none", "a", encoding="ascii") as stream:
            stream.write("more\n")

    same(subject, (layer,), inherit, change, write_as_root)


@case("storage.content.owners")
def owners(subject: Subject) -> None:
    """Owners of files, directories and links of a layer can be changed alone, and large numbers are kept."""

    def change(root: str) -> None:
        os.chown(f"{root}/dir", 4_000_000_000, 3_999_999_999)
        os.chown(f"{root}/dir/b", -1, 77)
        os.chown(f"{root}/file", 78, -1)

    same(subject, BOTH, change)


@case("storage.content.times")
def times(subject: Subject) -> None:
    """Times are kept to the nanosecond, from before 1970 until after 2038, on files and directories."""

    def set_times(root: str) -> None:
        os.utime(f"{root}/file", ns=(1, 1_234_567_890_123_456_789))
        os.utime(f"{root}/dir/a", ns=(0, -1_000_000_001))
        os.utime(f"{root}/dir/b", ns=(0, 4_000_000_000_000_000_003))
        os.utime(f"{root}/more", ns=(0, 999_999_999))
        os.utime(f"{root}/dir", ns=(0, 1_000_000_000_000_000_001))

    def keep_by_rename(root: str) -> None:
        os.rename(f"{root}/file", f"{root}/renamed")

    same(subject, BOTH, set_times, keep_by_rename)


@case("storage.content.times-of-copies")
def times_of_copies(subject: Subject) -> None:
    """A change of mode or owner of a layer's file changes neither its time nor that of its directory."""

    def change_mode(root: str) -> None:
        os.chmod(f"{root}/dir/sub/deep", 0o600)

    def change_owner(root: str) -> None:
        os.chown(f"{root}/dir/a", 40, 40)

    def open_for_writing_only(root: str) -> None:
        os.close(os.open(f"{root}/file", os.O_RDWR))

    same(subject, BOTH, change_mode, change_owner, open_for_writing_only)


@case("storage.content.names")
def names(subject: Subject) -> None:
    """Names may have 255 bytes and any bytes but the slash and zero."""
    odd = ("n" * 255, "\udcff\udcfe", "new\nline", " ", "-rf", "\\040", "a:b,c=d", "ü\u0308", "..x", "'\"$(x)")
    layer = (
        directory("", 0o755),
        *(file(f"{name[:250]}.of", name[:3].encode("utf-8", "surrogateescape")) for name in odd),
    )

    def make(root: str) -> None:
        for name in odd:
            os.mkdir(f"{root}/{name}")
            write(f"{root}/{name}/{name}", "")

    def delete(root: str) -> None:
        for name in odd:
            os.unlink(f"{root}/{name}/{name}")
            os.unlink(f"{root}/{name[:250]}.of")

    same(subject, (layer,), make, delete, lambda root: os.mkdir(f"{root}/{'x' * 256}"))


@case("storage.content.huge-directory", deadline_s=60)
def huge_directory(subject: Subject) -> None:
    """A directory of 5,000 entries is listed whole, also once parts are replaced, and while all is deleted."""
    half = _HUGE // 2
    lower = (directory("", 0o755), directory("d"), *(file(f"d/entry-{number:05}") for number in range(half)))
    upper = (directory("d"), *(file(f"d/entry-{number:05}", mode=0o600) for number in range(half - 100, _HUGE)))

    def replace_many(root: str) -> int:
        for number in range(0, _HUGE, 4):
            os.unlink(f"{root}/d/entry-{number:05}")
        for number in range(0, _HUGE, 40):
            write(f"{root}/d/entry-{number:05}", "again")
        return len(os.listdir(f"{root}/d"))

    def delete_while_listing(root: str) -> int:
        names = set()
        with os.scandir(f"{root}/d") as entries:
            for entry in entries:
                os.unlink(entry.path)
                names.add(entry.name)
        return len(names)

    container, plain = subject.mounted(subject.chain(lower, upper)), subject.plain(lower, upper)
    expect_equal(replace_many(container.root), replace_many(plain), "number of entries")
    container.remount()
    expect_same(container.snapshot(), subject.snapshot(plain), "after a remount")
    expect_equal(delete_while_listing(container.root), delete_while_listing(plain), "number of names listed")
    expect_equal(os.listdir(container.path("d")), [], "what is left after all was deleted")


@case("storage.content.sparse")
def sparse(subject: Subject) -> None:
    """A file with a hole reads as zeros there and does not take the space of it."""

    def make(root: str) -> None:
        with open(f"{root}/sparse", "wb") as stream:
            stream.seek(16 * _MIB)
            stream.write(b"end")

    pair = Pair(subject, *BOTH)
    pair.do(make)
    pair.finish()
    blocks = os.stat(pair.container.path("sparse")).st_blocks
    expect(blocks * 512 < 4 * _MIB, f"a hole of 16 MiB takes {blocks} blocks")


@case("storage.content.large-file", deadline_s=60)
def large_file(subject: Subject) -> None:
    """Of a file of 50 MB in a layer parts can be rewritten, and the rest stays as it was."""
    pattern = bytes(range(256)) * 4096
    large = Item(path="large", type=b"0", data=pattern * (_LARGE_BYTES // _MIB), mode=0o644)

    def rewrite_parts(root: str) -> None:
        with open(f"{root}/large", "r+b") as stream:
            for offset in range(0, _LARGE_BYTES, 7 * _MIB + 123):
                stream.seek(offset)
                stream.write(b"PART" * 1000)

    pair = Pair(subject, (directory("", 0o755), large))
    pair.do(rewrite_parts)
    pair.remount()


@case("storage.content.listing-tells-kinds")
def listing_tells_kinds(subject: Subject) -> None:
    """A listing tells the kind of each entry as lstat(2) does, without `.` twice or a name twice."""
    container = subject.mounted(subject.chain(*BOTH))
    write(container.path("dir/new"), "n\n")
    os.symlink("new", container.path("dir/ln"))
    os.unlink(container.path("dir/b"))
    for place in ("", "dir", "more"):
        entries = list(os.scandir(container.path(place)))
        listed = [entry.name for entry in entries]
        expect_equal(sorted(listed), sorted(set(listed)), f"names in /{place}, each once")
        for entry in entries:
            status = os.lstat(entry.path)
            kinds = (entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False), entry.is_symlink())
            wanted = (stat.S_ISDIR(status.st_mode), stat.S_ISREG(status.st_mode), stat.S_ISLNK(status.st_mode))
            expect_equal(kinds, wanted, f"what the listing says of /{place}/{entry.name}")

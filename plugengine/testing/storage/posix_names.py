"""Operations on names: make, rename, link, delete, and walk; see rename(2), link(2), unlink(2), path_resolution(7)."""

from __future__ import annotations

import os
import stat
from typing import Any

from plugengine.kernel.files import AT_FDCWD, RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, link_fd, renameat2
from plugengine.testing.children import in_child
from plugengine.testing.storage.pair import outcome


def _made(path: str) -> str:
    with open(path, "w", encoding="ascii") as stream:
        stream.write("made\n")
    return path


def exclusive_create(root: str) -> Any:
    """O_EXCL refuses every name that exists, whichever layer has it, links that dangle included."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    return [outcome(os.open, f"{root}/{name}", flags, 0o600) for name in ("f", "g", "d", "to-f", "nowhere", "d/y")]


def create_in_nothing(root: str) -> Any:
    """A file cannot be made in a directory that does not exist, in a file, or by the name of a directory."""
    flags = os.O_WRONLY | os.O_CREAT
    return [outcome(os.open, f"{root}/{name}", flags, 0o600) for name in ("no/x", "f/x", "d", "loop/x", "f/", "new/")]


def create_through_a_link(root: str) -> Any:
    """A file made through a link that dangles is made where the link leads."""
    os.mkdir(f"{root}/no")
    _made(f"{root}/nowhere")
    return sorted(os.listdir(f"{root}/no"))


def mkdir_existing(root: str) -> Any:
    """Mkdir refuses names that exist, of any kind and layer."""
    names = ("f", "d", "e", "to-d", "nowhere", "loop", "pipe", "no/x", "f/x")
    return [outcome(os.mkdir, f"{root}/{name}") for name in names]


def unlink_wrong_kind(root: str) -> Any:
    """Unlink refuses a directory with EISDIR, what is not there with ENOENT, and below a file with ENOTDIR."""
    return [outcome(os.unlink, f"{root}/{name}") for name in ("d", "e", "no", "f/x", "to-d", "loop")]


def rmdir_wrong_kind(root: str) -> Any:
    """Rmdir refuses what is not empty, what is no directory, and links to directories."""
    return [outcome(os.rmdir, f"{root}/{name}") for name in ("d", "full", "f", "to-d", "no", "e/.", "d/sub/..")]


def rmdir_emptied(root: str) -> Any:
    """A directory of a layer can be removed once all in it was deleted, not before."""
    first = outcome(os.rmdir, f"{root}/full")
    os.unlink(f"{root}/full/inside")
    return [first, outcome(os.rmdir, f"{root}/full"), os.path.lexists(f"{root}/full")]


def rmdir_with_new_file(root: str) -> Any:
    """A directory of which the layer's files are deleted but a new one was made is not empty."""
    _made(f"{root}/full/new")
    os.unlink(f"{root}/full/inside")
    return [outcome(os.rmdir, f"{root}/full"), os.listdir(f"{root}/full")]


def rename_over_directories(root: str) -> Any:
    """Rename refuses a directory that is not empty, a file over a directory and a directory over a file."""
    os.mkdir(f"{root}/new")
    pairs = (("new", "full"), ("new", "d"), ("f", "e"), ("new", "f"), ("new", "new/below"), ("no", "x"), ("f", "no/x"))
    found = [outcome(os.rename, f"{root}/{old}", f"{root}/{new}") for old, new in pairs]
    # rename(2) allows both for what is not empty: XFS says EEXIST, and overlayfs on it ENOTEMPTY.
    return ["ENOTEMPTY" if each == "EEXIST" else each for each in found]


def rename_over_empty_directory(root: str) -> Any:
    """A new directory can be renamed over an empty one of a layer, which then has the new one's content."""
    os.mkdir(f"{root}/new")
    _made(f"{root}/new/inside")
    os.rename(f"{root}/new", f"{root}/e")
    return os.listdir(f"{root}/e")


def rename_over_emptied_directory(root: str) -> Any:
    """A new directory can be renamed over one of a layer that was emptied, and nothing of the old comes back."""
    os.unlink(f"{root}/full/inside")
    os.mkdir(f"{root}/new")
    os.rename(f"{root}/new", f"{root}/full")
    return os.listdir(f"{root}/full")


def rename_onto_itself(root: str) -> Any:
    """Rename of a name onto itself or another name of the same file does nothing."""
    os.link(f"{root}/f", f"{root}/f2")
    os.rename(f"{root}/f", f"{root}/f2")
    os.rename(f"{root}/g", f"{root}/g")
    return sorted(name for name in os.listdir(root) if name.startswith(("f", "g")))


def rename_noreplace(root: str) -> Any:
    """RENAME_NOREPLACE refuses a target that exists in any layer, and renames otherwise."""

    def rename(old: str, new: str) -> None:
        renameat2(AT_FDCWD, f"{root}/{old}", AT_FDCWD, f"{root}/{new}", RENAME_NOREPLACE)

    _made(f"{root}/new")
    pairs = (("new", "f"), ("new", "d"), ("new", "nowhere"), ("new", "free"), ("f", "f9"))
    return [outcome(rename, *pair) for pair in pairs]


def rename_exchange(root: str) -> Any:
    """RENAME_EXCHANGE swaps two names, of files of layers and new ones, and needs both to exist."""

    def swap(old: str, new: str) -> None:
        renameat2(AT_FDCWD, f"{root}/{old}", AT_FDCWD, f"{root}/{new}", RENAME_EXCHANGE)

    _made(f"{root}/new")
    os.mkdir(f"{root}/newdir")
    return [outcome(swap, *pair) for pair in (("f", "g"), ("new", "d/x"), ("newdir", "new"), ("new", "none"))]


def rename_wrong_flags(root: str) -> Any:
    """Rename with flags that exclude each other is EINVAL."""
    flags = RENAME_EXCHANGE | RENAME_NOREPLACE, RENAME_EXCHANGE | RENAME_WHITEOUT
    return [outcome(renameat2, AT_FDCWD, f"{root}/f", AT_FDCWD, f"{root}/g", each) for each in flags]


def rename_open_file(root: str) -> Any:
    """A file that is renamed while it is open goes on being read and written through its descriptor."""
    fd = os.open(f"{root}/f", os.O_RDWR)
    try:
        os.rename(f"{root}/f", f"{root}/elsewhere")
        os.write(fd, b"WRITTEN")
        return os.pread(fd, 100, 0)
    finally:
        os.close(fd)


def link_errors(root: str) -> Any:
    """Link refuses directories, names that exist, and what is not there."""
    pairs = (("d", "new"), ("f", "g"), ("f", "d"), ("no", "new"), ("f", "no/new"), ("f", "f"))
    return [outcome(os.link, f"{root}/{old}", f"{root}/{new}") for old, new in pairs]


def link_counts(root: str) -> Any:
    """The number of links goes up with each name and down with each deletion."""
    counts = []
    for number in range(3):
        os.link(f"{root}/f", f"{root}/l{number}")
        counts.append(os.stat(f"{root}/f").st_nlink)
    os.unlink(f"{root}/f")
    counts.append(os.stat(f"{root}/l0").st_nlink)
    return counts, os.path.samefile(f"{root}/l0", f"{root}/l2")


def link_to_symlink(root: str) -> Any:
    """A hard link to a symbolic link is one to the link itself."""
    os.link(f"{root}/to-f", f"{root}/ln", follow_symlinks=False)
    return os.readlink(f"{root}/ln"), os.lstat(f"{root}/ln").st_nlink


def symlink_errors(root: str) -> Any:
    """Symlink refuses names that exist; readlink refuses what is no link."""
    made = [outcome(os.symlink, "x", f"{root}/{name}") for name in ("f", "d", "nowhere", "no/x")]
    return made, [outcome(os.readlink, f"{root}/{name}") for name in ("f", "d", "no", "to-f", "loop")]


def symlink_loops(root: str) -> Any:
    """A loop of links is ELOOP, also when it has two links or is in the middle of a path."""
    os.symlink("two", f"{root}/one")
    os.symlink("one", f"{root}/two")
    found = [outcome(os.stat, f"{root}/{name}") for name in ("loop", "one", "loop/x", "one/y")]
    return [*found, outcome(os.open, f"{root}/to-f", os.O_RDONLY | os.O_NOFOLLOW)]


def long_names(root: str) -> Any:
    """A name of 255 bytes is taken, one of 256 is ENAMETOOLONG, for every call that takes a name."""
    longest, longer = "n" * 255, "n" * 256
    os.mkdir(f"{root}/{longest}")
    calls: tuple[Any, ...] = (os.mkdir, os.stat, os.unlink, os.rmdir, os.listdir, _made)
    found = [outcome(call, f"{root}/{longer}") for call in calls]
    return [*found, outcome(os.rename, f"{root}/f", f"{root}/{longer}"), outcome(os.symlink, "x", f"{root}/{longer}")]


def long_path(root: str) -> Any:
    """A path of more than 4,095 bytes is ENAMETOOLONG."""
    return outcome(os.stat, f"{root}/{'./' * 2100}f")


def not_a_directory(root: str) -> Any:
    """A file in the middle of a path, or with a slash after it, is ENOTDIR."""
    return [outcome(os.stat, f"{root}/{name}") for name in ("f/", "f/x", "f/.", "d/x/..", "to-f/", "no/", "pipe/x")]


def deleted_working_directory(root: str) -> Any:
    """In a working directory that was deleted nothing can be made, and it is empty."""

    def act() -> list[object]:
        os.mkdir(f"{root}/cwd")
        os.chdir(f"{root}/cwd")
        os.rmdir(f"{root}/cwd")
        made = outcome(os.mkdir, "x")
        os.chdir(f"{root}/e")
        os.rmdir(f"{root}/e")
        return [made, outcome(_made, "x"), outcome(os.listdir, "."), outcome(os.getcwd)]

    return in_child(act)


def open_deleted_directory(root: str) -> Any:
    """A directory that was deleted while open has no entries and no links left."""
    fd = os.open(f"{root}/e", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.rmdir(f"{root}/e")
        return outcome(os.listdir, fd), outcome(os.access, f"/proc/self/fd/{fd}/x", os.F_OK)
    finally:
        os.close(fd)


def list_while_deleting(root: str) -> Any:
    """A listing during which the entries are deleted gives each once, and the directory is empty after it."""
    for number in range(300):
        _made(f"{root}/d/many-{number}")
    seen = []
    with os.scandir(f"{root}/d") as entries:
        for entry in entries:
            seen.append(entry.name)
            if entry.is_dir(follow_symlinks=False):
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)
    return len(seen), len(set(seen)), os.listdir(f"{root}/d")


def list_again(root: str) -> Any:
    """A directory that is open is listed anew from its begin, with what was made since."""
    fd = os.open(f"{root}/d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        before = sorted(os.listdir(fd))
        _made(f"{root}/d/new")
        os.unlink(f"{root}/d/x")
        os.lseek(fd, 0, os.SEEK_SET)  # as rewinddir(3)
        return before, sorted(os.listdir(fd))
    finally:
        os.close(fd)


def tmpfile(root: str) -> Any:
    """A file of O_TMPFILE has no name until it is linked, and then all that was written."""
    fd = os.open(f"{root}/d", os.O_TMPFILE | os.O_RDWR, 0o640)
    try:
        os.write(fd, b"unnamed\n")
        before = sorted(os.listdir(f"{root}/d")), os.fstat(fd).st_nlink
        here = os.open(f"{root}/d", os.O_PATH | os.O_DIRECTORY)
        try:
            link_fd(fd, here, "named")
        finally:
            os.close(here)
        return before, os.fstat(fd).st_nlink, stat.S_IMODE(os.stat(f"{root}/d/named").st_mode)
    finally:
        os.close(fd)


def tmpfile_exclusive(root: str) -> Any:
    """A file of O_TMPFILE with O_EXCL can never be linked."""
    fd = os.open(f"{root}/e", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    here = os.open(f"{root}/e", os.O_PATH | os.O_DIRECTORY)
    try:
        return outcome(link_fd, fd, here, "named")
    finally:
        os.close(fd)
        os.close(here)


def make_special(root: str) -> Any:
    """Mknod refuses names that exist, and makes pipes with the mode asked for less the umask."""
    before = os.umask(0o027)
    try:
        os.mknod(f"{root}/p", stat.S_IFIFO | 0o666)
        os.mkdir(f"{root}/m", 0o777)
        os.close(os.open(f"{root}/o", os.O_CREAT | os.O_WRONLY, 0o666))
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(os.lstat(f"{root}/{name}").st_mode) for name in "pmo"]
    return modes, [outcome(os.mknod, f"{root}/{name}", stat.S_IFIFO | 0o600) for name in ("f", "d", "p")]


def inode_numbers(root: str) -> Any:
    """A file keeps its inode number when it is changed, renamed or linked, and two files never share one."""
    before = os.stat(f"{root}/f").st_ino
    with open(f"{root}/f", "a", encoding="ascii") as stream:
        stream.write("more\n")
    changed = os.stat(f"{root}/f").st_ino
    os.rename(f"{root}/f", f"{root}/d/f")
    renamed = os.stat(f"{root}/d/f").st_ino
    numbers = [os.lstat(f"{root}/{name}").st_ino for name in ("g", "d", "e", "d/f", "d/x", "d/y", "to-f", "pipe")]
    return before == changed, changed == renamed, len(set(numbers)) == len(numbers)


def dots(root: str) -> Any:
    """`.` and `..` lead where they say, also out of directories of layers."""
    here = os.stat(f"{root}/d")
    pairs = (("d/.", "d"), ("d/sub/..", "d"), ("d/..", "."), ("to-d/..", "."))
    same = [os.path.samefile(f"{root}/{one}", f"{root}/{other}") for one, other in pairs]
    return same, stat.S_ISDIR(here.st_mode), [outcome(os.rename, f"{root}/d/.", f"{root}/n")]


OPERATIONS = (
    exclusive_create,
    create_in_nothing,
    create_through_a_link,
    mkdir_existing,
    unlink_wrong_kind,
    rmdir_wrong_kind,
    rmdir_emptied,
    rmdir_with_new_file,
    rename_over_directories,
    rename_over_empty_directory,
    rename_over_emptied_directory,
    rename_onto_itself,
    rename_noreplace,
    rename_exchange,
    rename_wrong_flags,
    rename_open_file,
    link_errors,
    link_counts,
    link_to_symlink,
    symlink_errors,
    symlink_loops,
    long_names,
    long_path,
    not_a_directory,
    deleted_working_directory,
    open_deleted_directory,
    list_while_deleting,
    list_again,
    tmpfile,
    tmpfile_exclusive,
    make_special,
    inode_numbers,
    dots,
)

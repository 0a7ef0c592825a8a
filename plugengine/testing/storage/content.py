"""Content: the same changes are made to a container and to a plain directory, and the trees must be the same."""

from __future__ import annotations

import os
import shutil
from typing import Final

from plugengine.testing.cases import case, expect
from plugengine.testing.storage.described import directory, file, hardlink, opaque, symlink, whiteout
from plugengine.testing.storage.pair import Pair, move, same
from plugengine.testing.storage.subject import Subject

LOWER: Final = (
    directory("", 0o755),
    directory("dir", 0o750, uid=3, gid=4),
    file("dir/a", "a of the lower layer\n", uid=1, gid=2),
    file("dir/b", "b of the lower layer\n", 0o600),
    directory("dir/sub"),
    file("dir/sub/deep", "deep\n"),
    file("file", "file of the lower layer\n"),
    symlink("link", "file"),
    symlink("dangling", "no/such/thing"),
)
UPPER: Final = (
    directory("dir", 0o700, uid=5, gid=6),
    file("dir/a", "a of the upper layer\n"),
    file("dir/c", "c of the upper layer\n"),
    directory("more"),
    file("more/x", "x\n"),
)
BOTH: Final = (LOWER, UPPER)
DEEP_LAYERS: Final = (2, 20, 128)


def write(path: str, text: str) -> None:
    """Write a file, made anew or with its old content gone."""
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)


# --- what containers do ------------------------------------------------------------------------------------


@case("storage.content.create")
def create(subject: Subject) -> None:
    """New files and directories appear, in directories of any layer."""

    def at_the_root(root: str) -> None:
        write(f"{root}/new", "new\n")
        os.mkdir(f"{root}/made")
        write(f"{root}/made/inside", "")

    def in_directories_of_layers(root: str) -> None:
        write(f"{root}/dir/new", "new\n")
        write(f"{root}/dir/sub/new", "new\n")
        os.makedirs(f"{root}/more/a/b/c")

    same(subject, BOTH, at_the_root, in_directories_of_layers)


@case("storage.content.modify")
def modify(subject: Subject) -> None:
    """Files of a layer can be appended to, written into, cut short and written anew."""

    def append(root: str) -> None:
        with open(f"{root}/dir/a", "a", encoding="utf-8") as stream:
            stream.write("appended\n")

    def write_into(root: str) -> None:
        with open(f"{root}/file", "r+b") as stream:
            stream.seek(5)
            stream.write(b"FIVE")

    def cut_short(root: str) -> None:
        os.truncate(f"{root}/dir/b", 3)

    def write_anew(root: str) -> None:
        write(f"{root}/dir/sub/deep", "anew\n")

    same(subject, BOTH, append, write_into, cut_short, write_anew)


@case("storage.content.delete")
def delete(subject: Subject) -> None:
    """What was deleted stays deleted, whichever layers have it."""

    def of_one_layer(root: str) -> None:
        os.unlink(f"{root}/dir/b")

    def of_two_layers(root: str) -> None:
        os.unlink(f"{root}/dir/a")

    def links(root: str) -> None:
        os.unlink(f"{root}/link")
        os.unlink(f"{root}/dangling")

    def a_directory(root: str) -> None:
        shutil.rmtree(f"{root}/dir")

    same(subject, BOTH, of_one_layer, of_two_layers, links, a_directory)


@case("storage.content.delete-and-create")
def delete_and_create(subject: Subject) -> None:
    """A directory that was deleted and made again is empty, and so it stays."""

    def delete_and_make(root: str) -> None:
        shutil.rmtree(f"{root}/dir")
        os.mkdir(f"{root}/dir", 0o711)

    def fill(root: str) -> None:
        write(f"{root}/dir/a", "another a\n")
        os.mkdir(f"{root}/dir/sub")

    def delete_and_make_again(root: str) -> None:
        shutil.rmtree(f"{root}/dir")
        os.mkdir(f"{root}/dir")
        os.mkdir(f"{root}/dir/sub")

    same(subject, BOTH, delete_and_make, fill, delete_and_make_again)


@case("storage.content.delete-and-create-file")
def delete_and_create_file(subject: Subject) -> None:
    """A file that was deleted and made again has nothing of the old one."""

    def delete_then_create(root: str) -> None:
        os.unlink(f"{root}/dir/a")
        with open(f"{root}/dir/a", "xb") as stream:
            stream.write(b"x")

    def delete_again(root: str) -> None:
        os.unlink(f"{root}/dir/a")

    same(subject, BOTH, delete_then_create, delete_again)


@case("storage.content.replace-kind")
def replace_kind(subject: Subject) -> None:
    """A file can take the place of a directory, a directory that of a file, a link that of both."""

    def directory_by_file(root: str) -> None:
        shutil.rmtree(f"{root}/dir/sub")
        write(f"{root}/dir/sub", "a file now\n")

    def file_by_directory(root: str) -> None:
        os.unlink(f"{root}/file")
        os.makedirs(f"{root}/file/with/more")

    def directory_by_link(root: str) -> None:
        shutil.rmtree(f"{root}/more")
        os.symlink("dir", f"{root}/more")

    def link_by_directory(root: str) -> None:
        os.unlink(f"{root}/link")
        os.mkdir(f"{root}/link")

    same(subject, BOTH, directory_by_file, file_by_directory, directory_by_link, link_by_directory)


@case("storage.content.rename-file")
def rename_file(subject: Subject) -> None:
    """Files of a layer can be renamed, over each other, across directories, and back."""

    def within_its_directory(root: str) -> None:
        os.rename(f"{root}/dir/a", f"{root}/dir/renamed")

    def over_another(root: str) -> None:
        os.rename(f"{root}/dir/renamed", f"{root}/dir/b")

    def across_directories(root: str) -> None:
        os.rename(f"{root}/dir/c", f"{root}/more/c")
        os.rename(f"{root}/file", f"{root}/dir/sub/file")

    def over_a_file_of_a_layer_by_a_new_one(root: str) -> None:
        write(f"{root}/tmp", "written aside\n")
        os.rename(f"{root}/tmp", f"{root}/dir/sub/deep")

    def to_where_one_was(root: str) -> None:
        os.rename(f"{root}/dir/b", f"{root}/dir/a")

    def a_link(root: str) -> None:
        os.rename(f"{root}/link", f"{root}/dir/link")

    same(
        subject,
        BOTH,
        within_its_directory,
        over_another,
        across_directories,
        over_a_file_of_a_layer_by_a_new_one,
        to_where_one_was,
        a_link,
    )


@case("storage.content.rename-directory")
def rename_directory(subject: Subject) -> None:
    """Directories can be moved: new ones by rename, those of a layer by rename or as mv(1) does it."""

    def a_new_one(root: str) -> None:
        os.makedirs(f"{root}/made/inside")
        os.rename(f"{root}/made", f"{root}/dir/moved")

    def one_of_a_layer(root: str) -> None:
        move(f"{root}/more", f"{root}/moved")

    def to_where_one_was(root: str) -> None:
        os.mkdir(f"{root}/more")
        write(f"{root}/more/y", "y\n")

    def one_of_two_layers(root: str) -> None:
        move(f"{root}/dir/sub", f"{root}/more/sub")

    same(subject, BOTH, a_new_one, one_of_a_layer, to_where_one_was, one_of_two_layers)


@case("storage.content.hard-links")
def hard_links(subject: Subject) -> None:
    """Hard links made in a container share everything, whether to new files or to those of a layer."""

    def to_a_new_file(root: str) -> None:
        write(f"{root}/one", "one\n")
        os.link(f"{root}/one", f"{root}/dir/two")

    def write_through_the_other(root: str) -> None:
        with open(f"{root}/dir/two", "a", encoding="utf-8") as stream:
            stream.write("by two\n")

    def to_a_file_of_a_layer(root: str) -> None:
        os.link(f"{root}/dir/b", f"{root}/b-too")

    def write_through_the_new_name(root: str) -> None:
        with open(f"{root}/b-too", "a", encoding="utf-8") as stream:
            stream.write("by the new name\n")

    def remove_the_first_name(root: str) -> int:
        os.unlink(f"{root}/dir/b")
        return os.stat(f"{root}/b-too").st_nlink

    same(
        subject,
        BOTH,
        to_a_new_file,
        write_through_the_other,
        to_a_file_of_a_layer,
        write_through_the_new_name,
        remove_the_first_name,
    )


@case("storage.content.symlinks")
def symlinks(subject: Subject) -> None:
    """Symbolic links are made, read, owned and replaced; they may dangle, loop and be as long as a path."""

    def make(root: str) -> None:
        os.symlink("x" * 4000, f"{root}/long")
        os.symlink("/absolute/nowhere", f"{root}/dir/absolute")
        os.symlink("loop", f"{root}/loop")

    def own(root: str) -> None:
        os.chown(f"{root}/link", 11, 12, follow_symlinks=False)
        os.chown(f"{root}/dangling", 13, 14, follow_symlinks=False)

    def date(root: str) -> None:
        os.utime(f"{root}/link", ns=(5, 1_000_000_007), follow_symlinks=False)

    def write_through(root: str) -> None:
        write(f"{root}/link", "through the link\n")

    same(subject, BOTH, make, own, date, write_through)


@case("storage.content.root")
def change_the_root(subject: Subject) -> None:
    """The root directory itself has the image's owner, mode and attributes, and can be changed."""
    layers = ((directory("", 0o711, uid=7, gid=8, xattrs={"user.root": b"yes"}), file("f")), (file("g"),))

    def change(root: str) -> None:
        os.chmod(root, 0o1777)
        os.chown(root, 9, 10)
        os.setxattr(root, "user.root", b"changed")

    same(subject, layers, change)


# --- what layers say ---------------------------------------------------------------------------------------


@case("storage.content.whiteouts")
def whiteouts(subject: Subject) -> None:
    """What an upper layer deletes is not there, also files and directories that several lower layers have."""
    third = (directory("dir"), whiteout("dir/a"), whiteout("file"), whiteout("more"), whiteout("dangling"))

    def make_anew(root: str) -> None:
        write(f"{root}/dir/a", "anew\n")
        os.mkdir(f"{root}/more")

    same(subject, (*BOTH, third), make_anew)


@case("storage.content.opaque")
def opaque_directories(subject: Subject) -> None:
    """Of an opaque directory only the layer's own entries are there, and those of layers above it."""
    third = (directory("dir", 0o711), opaque("dir"), file("dir/z", "z\n"))
    fourth = (directory("dir", 0o711), file("dir/a", "a once more\n"))

    def use(root: str) -> None:
        write(f"{root}/dir/b", "b anew\n")
        os.unlink(f"{root}/dir/z")

    same(subject, (*BOTH, third, fourth), use)


@case("storage.content.replaced-in-layers")
def replaced_in_layers(subject: Subject) -> None:
    """A layer may put a file where a lower one has a directory, a directory for a file, and back again."""
    second = (file("dir", "a file now\n"), directory("file"), file("file/inside", "i\n"), file("link", "no link\n"))
    third = (directory("dir"), file("dir/new", "n\n"), symlink("file", "dir"))

    def use(root: str) -> None:
        write(f"{root}/dir/b", "not that of the lowest layer\n")
        write(f"{root}/file/by-link", "l\n")

    same(subject, (LOWER, second), lambda root: os.listdir(f"{root}/file"))
    same(subject, (LOWER, second, third), use)


@case("storage.content.deleted-then-restored")
def deleted_then_restored(subject: Subject) -> None:
    """What one layer deletes and a later one brings again has only what the later one says."""
    second = (whiteout("dir"), whiteout("file"))
    third = (directory("dir", 0o755), file("dir/only", "only\n"), file("file", "again\n"))
    same(subject, (LOWER, second, third), lambda root: sorted(os.listdir(f"{root}/dir")))


@case("storage.content.hard-links-in-a-layer")
def hard_links_in_a_layer(subject: Subject) -> None:
    """Names that are one file in a layer are one file in the container, and deleting one leaves the others."""
    layer = (
        directory("", 0o755),
        file("one", "linked\n"),
        hardlink("two", "one"),
        directory("d"),
        hardlink("d/3", "one"),
    )

    def delete_one(root: str) -> None:
        os.unlink(f"{root}/two")

    pair = Pair(subject, layer)
    expect(os.path.samefile(pair.container.path("one"), pair.container.path("d/3")), "one and d/3 are two files")
    with open(pair.container.path("d/3"), "rb") as stream:
        expect(stream.read() == b"linked\n", "a hard link has another content")
    delete_one(pair.container.root)
    expect(not os.path.lexists(pair.container.path("two")), "a deleted hard link is there")
    for name in ("one", "d/3"):
        with open(pair.container.path(name), "rb") as stream:
            expect(stream.read() == b"linked\n", f"{name} lost its content with another name of it")


@case("storage.content.metadata-only-layer")
def metadata_only_layer(subject: Subject) -> None:
    """A layer that only changes owner, mode and time of what is below is shown so."""
    second = (
        directory("dir", 0o711, uid=21, gid=22),
        file("file", "file of the lower layer\n", 0o4711, uid=23, gid=24),
    )
    same(subject, (LOWER, second), lambda root: os.chmod(f"{root}/dir", 0o700))


@case("storage.content.no-layer")
def no_layer(subject: Subject) -> None:
    """A container without layers begins as an empty directory of root's, mode 0755."""
    container = subject.mounted(())
    status = os.stat(container.root)
    expect((status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o755, 0, 0), f"the root is {status}")
    expect(os.listdir(container.root) == [], "it is not empty")
    write(container.path("file"), "kept\n")
    container.remount()
    expect(os.listdir(container.root) == ["file"], "what was written is gone after a remount")


@case("storage.content.empty-layers")
def empty_layers(subject: Subject) -> None:
    """Layers that say nothing change nothing, and the same layer may be in a chain twice."""
    same(subject, (LOWER, (), UPPER, ()), lambda root: write(f"{root}/dir/a", "changed\n"))
    layer, other = subject.layer(*LOWER), subject.layer(*UPPER)
    twice = subject.mounted((layer, other, layer))
    with open(twice.path("dir/a"), encoding="utf-8") as stream:
        expect(stream.read() == "a of the lower layer\n", "of a layer that comes twice, the last must be seen")


@case("storage.content.many-layers", deadline_s=40)
def many_layers(subject: Subject) -> None:
    """Chains of 2, 20 and 128 layers show what each layer says, and can be written to."""

    def use(root: str) -> None:
        write(f"{root}/everywhere", "by the container\n")
        os.unlink(f"{root}/layer-1")

    for count in DEEP_LAYERS:
        layers = [(directory("", 0o755), file("layer-0", "0\n"), file("everywhere", "0\n"), directory("d"))]
        layers += [
            (
                file(f"layer-{number}", f"{number}\n"),
                file("everywhere", f"{number}\n"),
                directory("d", 0o700 + number % 8),
                file(f"d/of-{number}", ""),
                *((whiteout(f"d/of-{number - 2}"),) if number > 2 else ()),
            )
            for number in range(1, count)
        ]
        same(subject, tuple(layers), use)

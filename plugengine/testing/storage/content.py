"""Content: the same changes are made to a container and to a plain directory, and the trees must be the same."""

from __future__ import annotations

import os
import shutil
from typing import Final

from plugengine.testing.cases import case
from plugengine.testing.storage.described import directory, file, symlink
from plugengine.testing.storage.pair import move, same
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


def write(path: str, text: str) -> None:
    """Write a file, made anew or with its old content gone."""
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)


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

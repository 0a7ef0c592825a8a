"""Content: what a chain of layers shows, compared with a plain directory to which they were applied one by one."""

from __future__ import annotations

import os
from typing import Final

from plugengine.testing.cases import case, expect
from plugengine.testing.storage.content import BOTH, LOWER, UPPER, write
from plugengine.testing.storage.described import directory, file, hardlink, opaque, symlink, whiteout
from plugengine.testing.storage.pair import Pair, same
from plugengine.testing.storage.subject import Subject

DEEP_LAYERS: Final = (2, 20, 128)


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

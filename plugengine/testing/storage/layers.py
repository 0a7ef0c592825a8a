"""Layers: what changed becomes a layer that says just that, for this driver and for every other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from plugengine.images.layers.diff import diff_layer
from plugengine.model import Capability, Change, HostPath
from plugengine.plugins.drivers import StorageDriver
from plugengine.testing.cases import Unsuitable, case, expect, expect_equal
from plugengine.testing.storage.container import Container
from plugengine.testing.storage.described import directory, file, tar
from plugengine.testing.storage.guest_work import LAYERS, work
from plugengine.testing.storage.naive import naive_changes, naive_layer
from plugengine.testing.storage.pair import Pair
from plugengine.testing.storage.snapshot import Entry, expect_same
from plugengine.testing.storage.subject import Subject

NATIVE = (Capability.NATIVE_DIFF,)


@case("storage.layers.changes", needs=NATIVE)
def changes(subject: Subject) -> None:
    """Changes names exactly what differs from the image, whatever was done."""
    chain = subject.chain(*LAYERS)
    before = subject.mounted(chain).snapshot(exact=True)
    container = subject.mounted(chain)
    work(container.root)
    after = container.snapshot(exact=True)
    _expect_changes(container.changes(), naive_changes(before, after), "while mounted")
    container.unmount()
    _expect_changes(container.changes(), naive_changes(before, after), "after the unmount")


@case("storage.layers.no-changes", needs=NATIVE)
def no_changes(subject: Subject) -> None:
    """A container that was only mounted and read has no changes, and an empty layer."""
    container = subject.mounted(subject.chain(*LAYERS))
    container.snapshot()
    container.unmount()
    expect_equal(container.changes(), [], "changes of a container that was only read")
    again = subject.layer_of_tar(container.diff()[1], below=container.request.chain)
    expect_equal(os.listdir(again), [], "the layer of a container that was only read")


@case("storage.layers.changes-taken-back", needs=NATIVE)
def changes_taken_back(subject: Subject) -> None:
    """What was made and removed again is no change, and what was deleted and restored is no deletion."""
    container = subject.mounted(subject.chain(*LAYERS))
    root = container.root
    os.makedirs(f"{root}/opt/x/y")
    os.removedirs(f"{root}/opt/x/y")
    with open(f"{root}/etc/passwd", "rb") as stream:
        content = stream.read()
    os.unlink(f"{root}/etc/passwd")
    with open(f"{root}/etc/passwd", "wb") as stream:
        stream.write(content)
    container.unmount()
    found = {str(change.path): change.kind for change in container.changes()}
    expect("/opt" not in found, "what was made and removed again is among the changes")
    expect_equal(found.get("/etc/passwd", "C"), "C", "the change of a file that was deleted and restored")


@case("storage.layers.round-trip", needs=NATIVE)
def round_trip(subject: Subject) -> None:
    """The layer of a container, over the image, gives the same tree again."""
    container, wanted = _worked(subject)
    container.unmount()
    _digest, data = container.diff()
    chain = (*container.request.chain, subject.layer_of_tar(data, below=container.request.chain))
    expect_same(_seen(subject, chain), wanted, "the image with the container's layer")


@case("storage.layers.round-trip-of-hard-links", needs=NATIVE)
def round_trip_of_hard_links(subject: Subject) -> None:
    """Hard links made in a container are hard links in its layer."""
    container = subject.mounted(subject.chain((directory("", 0o755), file("of-layer", "o\n"))))
    with open(container.path("one"), "w", encoding="ascii") as stream:
        stream.write("one\n")
    for name in ("two", "three"):
        os.link(container.path("one"), container.path(name))
    os.link(container.path("of-layer"), container.path("of-layer-too"))
    wanted = container.snapshot(exact=True)
    container.unmount()
    chain = (*container.request.chain, subject.layer_of_tar(container.diff()[1], below=container.request.chain))
    expect_same(_seen(subject, chain), wanted, "the image with the container's layer")


@case("storage.layers.same-digest", needs=NATIVE)
def same_digest(subject: Subject) -> None:
    """The layer of a container has the same bytes every time, also after a remount and written out again."""
    container, _tree = _worked(subject)
    digests = []
    for _ in range(2):
        container.unmount()
        digests.append(container.diff()[0])
        container.mount()
    container.unmount()
    digest, data = container.diff()
    expect_equal({*digests, digest}, {digest}, "digests of one container's layer")
    unpacked = subject.layer_of_tar(data, below=container.request.chain)
    expect_equal(diff_layer(unpacked)[0], digest, "the digest of the layer, unpacked and written out again")


@case("storage.layers.upper", needs=NATIVE)
def upper(subject: Subject) -> None:
    """The upper directory is below the driver's own and is there while nothing is mounted."""
    container, _tree = _worked(subject)
    container.unmount()
    found = subject.driver.upper(container.request, container.record or {}).directory
    expect(os.path.isdir(found), f"upper: {found} is no directory")
    expect(os.path.isabs(found), f"upper: {found} is not absolute")


@case("storage.layers.read-by-others")
def read_by_others(subject: Subject) -> None:
    """A layer made of a container of this driver is read alike by every other bundled driver."""
    others = _others(subject)
    container, wanted = _worked(subject)
    layer = subject.layer_of_tar(_layer_of(subject, container, wanted), below=container.request.chain)
    chain = (*container.request.chain, layer)
    expect_same(_seen(subject, chain), wanted, "through this driver")
    for other in others:
        expect_same(_seen(subject, chain, driver=other), wanted, f"through {other.name}")


@case("storage.layers.written-by-others")
def written_by_others(subject: Subject) -> None:
    """A layer made of a container of any other bundled driver is read by this driver as it was written."""
    for other in _others(subject):
        container, wanted = _worked(subject, driver=other)
        layer = subject.layer_of_tar(_layer_of(subject, container, wanted), below=container.request.chain)
        expect_same(_seen(subject, (*container.request.chain, layer)), wanted, f"written through {other.name}")


@case("storage.layers.generations")
def generations(subject: Subject) -> None:
    """Five generations, each a container over the layers of those before, show what a plain directory does."""
    base = (directory("", 0o755), directory("d"), *(file(f"d/{number}", f"{number}\n") for number in range(10)))
    pair = Pair(subject, base)
    chain, container = pair.chain, pair.container
    for generation in range(5):
        for root in (container.root, pair.plain):
            _live(root, generation)
        wanted = container.snapshot(exact=True)
        before = _seen(subject, chain)
        data = _layer_of(subject, container, wanted, before=before)
        chain = (*chain, subject.layer_of_tar(data, below=chain))
        container = subject.mounted(chain)
        expect_same(container.snapshot(), subject.snapshot(pair.plain), f"generation {generation}")


def _live(root: str, generation: int) -> None:
    os.unlink(f"{root}/d/{generation}")
    with open(f"{root}/d/{generation + 5}", "a", encoding="ascii") as stream:
        stream.write(f"generation {generation}\n")
    if generation:
        os.rename(f"{root}/d/new-{generation - 1}", f"{root}/d/{generation - 1}")
    with open(f"{root}/d/new-{generation}", "w", encoding="ascii") as stream:
        stream.write(f"{generation}\n")


def _worked(subject: Subject, *, driver: StorageDriver | None = None) -> tuple[Container, dict[str, Entry]]:
    """Return a container that has worked, still mounted, and its tree."""
    container = subject.mounted(subject.chain(*LAYERS), driver=driver)
    work(container.root)
    return container, container.snapshot(exact=True)


def _layer_of(
    subject: Subject, container: Container, tree: Mapping[str, Entry], *, before: Mapping[str, Entry] | None = None
) -> bytes:
    """Return the layer tar of a mounted container: the driver's own if it claims that, else found by comparing."""
    if Capability.NATIVE_DIFF in container.driver.info.capabilities:
        container.unmount()
        return container.diff()[1]
    image = _seen(subject, container.request.chain, driver=container.driver) if before is None else before
    data = tar(naive_layer(container.root, image, tree))
    container.unmount()
    return data


def _seen(subject: Subject, chain: Sequence[HostPath], *, driver: StorageDriver | None = None) -> dict[str, Entry]:
    """Return what a new container over a chain shows."""
    container = subject.mounted(chain, driver=driver)
    tree = container.snapshot(exact=True)
    container.unmount()
    return tree


def _others(subject: Subject) -> list[StorageDriver]:
    others = subject.other_drivers()
    if not others:
        raise Unsuitable("no other storage driver works here")
    return others


def _expect_changes(seen: Sequence[Change], wanted: Sequence[Change], when: str) -> None:
    found = {str(change.path): change.kind for change in seen}
    expect_equal(len(found), len(seen), f"changes {when}: number of paths, each once")
    right = {str(change.path): change.kind for change in wanted}
    missing = [f"{kind} {path}" for path, kind in right.items() if path not in found]
    expect(not missing, f"changes {when}: missing {', '.join(missing)}")
    extra = [f"{kind} {path}" for path, kind in found.items() if path not in right]
    expect(not extra, f"changes {when}: {', '.join(extra)} did not change")
    wrong = [f"{path} is {found[path]}, not {kind}" for path, kind in right.items() if found[path] != kind]
    expect(not wrong, f"changes {when}: {', '.join(wrong)}")
    order = [str(change.path) for change in seen]
    early = [path for path in order if order.index(path) < order.index(_parent(path, found) or path)]
    expect(not early, f"changes {when}: {early[:1]} comes before its directory")


def _parent(path: str, among: Mapping[str, str]) -> str | None:
    parent = os.path.dirname(path)
    return parent if parent in among else None

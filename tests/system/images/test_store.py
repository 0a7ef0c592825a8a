"""The store as the engine uses it: finding, naming, removing with shared layers, importing, sources."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from plugengine.api import object_json
from plugengine.errors import ConflictError, ImageError, NotFoundError, UsageError
from plugengine.images.store import ImageStore
from plugengine.spec import Image
from tests.system.images import archives as a
from tests.system.images.conftest import open_store
from tests.unit.images.tars import make_tar, member, zstd

ROOTFS = make_tar([member("./", "directory", mode=0o755), member("./bin/sh", content=b"#!", mode=0o755)])


def load(store: ImageStore, *layers: bytes, tags: list[str]) -> Image:
    [image] = store.load(io.BytesIO(a.pack(a.docker_parts(*layers, tags=tags))))
    return image


# --- finding ---


def test_an_image_is_found_by_every_spelling_of_its_name_and_by_its_id(store: ImageStore) -> None:
    image = load(store, a.LOW, tags=["web:latest", "registry.example.com:5000/me/web:2"])
    digits = image.id.removeprefix("sha256:")
    for reference in (
        "web", "web:latest", "docker.io/library/web", "docker.io/web:latest", "registry.example.com:5000/me/web:2",
        image.id, digits, digits[:12], digits[:4], f"sha256:{digits[:6]}", f"web@{image.digest}", image.digest,
    ):  # fmt: skip
        assert store.get(reference) == image, reference
        assert store.resolve(reference) == image, reference


def test_a_name_that_looks_like_an_id_is_a_name_first(store: ImageStore) -> None:
    other = load(store, a.HIGH, tags=["x:1"])
    named = load(store, a.LOW, tags=[f"{other.id[7:11]}:latest"])
    assert store.get(other.id[7:11]) == named


@pytest.mark.parametrize("disguise", ["sha256:{0}", "docker.io/library/{0}", "index.docker.io/library/{0}:latest"])
def test_an_archive_cannot_pass_its_image_off_as_another_by_that_ones_id(store: ImageStore, disguise: str) -> None:
    victim = load(store, a.HIGH, tags=["x:1"])
    with pytest.raises(UsageError, match="an id, not a name"):
        load(store, a.LOW, tags=[disguise.format(victim.id[7:])])
    with pytest.raises(UsageError, match="an id, not a name"):
        store.tag("x:1", disguise.format("0" * 64))
    assert store.list() == [victim]


@pytest.mark.parametrize("row", ["sha256:{0}", "{0}:latest"])
def test_a_whole_id_is_never_looked_for_among_the_names(store: ImageStore, row: str) -> None:
    victim, other = load(store, a.HIGH, tags=["x:1"]), load(store, a.LOW, tags=["y:1"])
    digits = victim.id[7:]
    store.catalog.set_name(row.format(digits), other.id)  # as engines did that did not refuse such names
    assert store.get(victim.id) == store.get(digits) == store.resolve(victim.id, pull="never") == victim


def test_a_beginning_that_fits_several_images_is_refused_with_longer_ones(store: ImageStore) -> None:
    for number in range(40):
        store.import_rootfs(io.BytesIO(ROOTFS), f"x:{number}", config={"Labels": {"n": str(number)}})
    first = [image.id[7] for image in store.list()]
    twice = next(digit for digit in first if first.count(digit) > 1)
    with pytest.raises(UsageError, match=f"image {twice}: fits {first.count(twice)} images") as caught:
        store.get(twice)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"give more digits: {twice}")


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("wbe", "did you mean web:1.0"),
        ("web", "did you mean web:1.0"),
        ("web:1.1", "did you mean web:1.0"),
        ("quite/other", "pe load -i, pe import"),
        ("sha256:" + "0" * 64, "pe load -i, pe import"),
        ("web@sha256:" + "0" * 64, "did you mean web:1.0"),
    ],
)
def test_what_is_not_there_is_named_and_what_is_near_suggested(store: ImageStore, reference: str, hint: str) -> None:
    load(store, a.LOW, tags=["web:1.0"])
    with pytest.raises(NotFoundError, match=f"^image {reference}: is not in the store$") as caught:
        store.get(reference)
    assert (caught.value.hint or "").startswith(hint)


def test_an_image_known_by_name_is_read_in_well_under_a_millisecond(store: ImageStore) -> None:
    image = load(store, a.LOW, a.HIGH, tags=["web"])
    times = []
    for _ in range(20):
        begin = time.process_time()
        assert store.resolve("web") == image
        times.append(time.process_time() - begin)
    assert min(times) < 0.001


def test_the_description_has_dockers_words(store: ImageStore) -> None:
    image = load(store, a.LOW, a.HIGH, tags=["web:1", "web:2"])
    described = object_json.image(image, store.config("web:1"))
    assert described["Id"] == image.id
    assert described["RepoTags"] == ["web:1", "web:2"]
    assert described["RepoDigests"] == [f"web@{image.digest}"]
    assert described["RootFS"] == {"Type": "layers", "Layers": [a.digest(a.LOW), a.digest(a.HIGH)]}
    config = described["Config"]
    assert (config["Cmd"], config["Env"], config["Labels"]) == (["/bin/sh"], ["A=b"], {"k": "v"})
    assert (described["Os"], described["Size"]) == ("linux", image.size_bytes)


def test_a_list_shows_the_newest_image_first(store: ImageStore) -> None:
    names = ["c:1", "a:1", "b:1"]
    for name, layer in zip(names, (a.LOW, a.HIGH, ROOTFS), strict=True):
        load(store, layer, tags=[name])
    assert [image.names for image in store.list()] == [(name,) for name in reversed(names)]


def test_a_layer_whose_root_is_opaque_hides_the_layers_below(store: ImageStore) -> None:
    image = load(store, a.LOW, make_tar([member(".wh..wh..opq"), member("only")]), tags=["x"])
    assert [os.listdir(layer) for layer in image.layers] == [["only"]]
    assert len(image.diff_ids) == 2


# --- naming ---


def test_a_name_moves_from_one_image_to_another(store: ImageStore) -> None:
    one, two = load(store, a.LOW, tags=["web"]), load(store, a.HIGH, tags=["other"])
    store.tag("other", "web")
    assert store.get("web").id == two.id
    assert store.get(one.id).names == ()
    store.tag(one.id[7:19], "docker.io/library/old:1")
    assert store.get(one.id).names == ("old:1",)


@pytest.mark.parametrize("target", ["Web", "web@sha256:" + "0" * 64, "host:base", "", "a" * 300])
def test_a_name_that_cannot_be_given_is_refused(store: ImageStore, target: str) -> None:
    load(store, a.LOW, tags=["web"])
    with pytest.raises(UsageError, match="image name"):
        store.tag("web", target)


# --- removing ---


def test_layers_shared_with_another_image_stay(store: ImageStore) -> None:
    one, two = load(store, a.LOW, tags=["one"]), load(store, a.LOW, a.HIGH, tags=["two"])
    assert store.remove("two") == ["Untagged: two:latest", f"Deleted: {two.id}", f"Deleted: {a.digest(a.HIGH)}"]
    assert store.files.layer_ids() == {a.digest(a.LOW)}
    assert Path(store.get("one").layers[0], "etc/motd").read_text() == "low\n"
    assert store.remove("one") == ["Untagged: one:latest", f"Deleted: {one.id}", f"Deleted: {a.digest(a.LOW)}"]
    assert store.files.layer_ids() == store.files.blob_digests() == set()
    assert store.check() == []


def test_the_last_name_takes_the_image_with_it_and_not_the_others(store: ImageStore) -> None:
    image = load(store, a.LOW, tags=["a:1", "b:1"])
    assert store.remove("a:1") == ["Untagged: a:1"]
    assert store.get("b:1").id == image.id
    assert store.remove("b:1")[1] == f"Deleted: {image.id}"


def test_an_image_with_several_names_is_removed_by_id_only_with_force(store: ImageStore) -> None:
    image = load(store, a.LOW, tags=["a:1", "b:1"])
    with pytest.raises(ConflictError, match="has several names: a:1, b:1"):
        store.remove(image.id)
    assert store.remove(image.id, force=True)[:3] == ["Untagged: a:1", "Untagged: b:1", f"Deleted: {image.id}"]


def test_an_image_in_use_stays_and_with_force_only_loses_its_names(store: ImageStore) -> None:
    image = load(store, a.LOW, tags=["web"])
    users = {image.id: ["busy"]}
    with pytest.raises(ConflictError, match="image web: is used by container busy"):
        store.remove("web", in_use=lambda one: users.get(one, []))
    assert store.get("web") == image
    assert store.remove("web", force=True, in_use=lambda one: users.get(one, [])) == ["Untagged: web:latest"]
    assert store.get(image.id).names == ()
    assert os.path.isdir(image.layers[0])


def test_a_name_of_an_image_in_use_can_go_as_long_as_another_stays(store: ImageStore) -> None:
    load(store, a.LOW, tags=["a", "b"])
    assert store.remove("a", in_use=lambda _: ["busy"]) == ["Untagged: a:latest"]


def test_what_is_removed_while_somebody_adds_goes_when_that_is_done(store: ImageStore) -> None:
    load(store, a.LOW, tags=["web"])
    with store.adding("test"):
        store.remove("web")
        assert store.list() == []
        assert store.files.layer_ids() == {a.digest(a.LOW)}
        # The layer is still there, and an image that needs it gets it without its files moving.
    assert store.files.layer_ids() == set()
    assert store.check() == []


def test_an_image_added_while_its_layer_lost_its_last_owner_keeps_the_layer(store: ImageStore, tmp_path: Path) -> None:
    load(store, a.LOW, tags=["old"])
    other = open_store(tmp_path / "root")
    with store.adding("test"):
        [_] = other.load(io.BytesIO(a.pack(a.docker_parts(a.LOW, a.HIGH, tags=["new"]))))
        store.remove("old")
    assert Path(other.get("new").layers[0], "etc/motd").read_text() == "low\n"
    assert other.get("new").size_bytes == sum(len(text) for text in ("low\n", "x", "high\n"))
    assert store.check() == []
    other.state.close()


# --- importing ---

PACKED = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("kind", PACKED)
def test_a_root_filesystem_becomes_an_image(store: ImageStore, tmp_path: Path, kind: str) -> None:
    pack: Any = PACKED[kind]
    (tmp_path / "rootfs").write_bytes(pack(ROOTFS))
    image = store.import_rootfs(str(tmp_path / "rootfs"), "debian:mine", config={"Cmd": ["/bin/sh"], "Env": ["A=b"]})
    assert (image.names, image.diff_ids) == (("debian:mine",), (a.digest(ROOTFS),))
    assert image.config.cmd == ("/bin/sh",)
    assert image.config.env[-1] == "A=b"
    assert stat.S_IMODE(os.stat(f"{image.layers[0]}/bin/sh").st_mode) == 0o755
    assert store.check() == []


def test_a_root_filesystem_needs_no_name(store: ImageStore) -> None:
    image = store.import_rootfs(io.BytesIO(ROOTFS), None)
    assert image.names == ()
    assert store.get(image.id) == image


@pytest.mark.parametrize(
    ("data", "name", "error"),
    [
        (ROOTFS[:1000], "x", ImageError),
        (ROOTFS, "X", UsageError),
        (b"", "x", ImageError),
        (ROOTFS, "host:x", UsageError),
    ],
    ids=["truncated", "bad name", "empty", "a source's name"],
)
def test_an_import_that_is_refused_leaves_nothing(
    store: ImageStore, data: bytes, name: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        store.import_rootfs(io.BytesIO(data), name)
    assert store.list() == []
    assert store.files.layer_ids() == store.files.blob_digests() == set()


# --- sources ---


@pytest.mark.parametrize("scheme", ["oci-archive", "docker-archive"])
def test_an_archive_can_be_run_by_its_path(store: ImageStore, tmp_path: Path, scheme: str) -> None:
    parts = a.oci_parts(a.LOW) if scheme == "oci-archive" else a.docker_parts(a.LOW)
    (tmp_path / "x.tar").write_bytes(a.pack(parts))
    assert store.resolve(f"{scheme}:{tmp_path}/x.tar").diff_ids == (a.digest(a.LOW),)
    with pytest.raises(NotFoundError, match="no such file"):
        store.resolve(f"{scheme}:{tmp_path}/y.tar")

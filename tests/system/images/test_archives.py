"""Archives of images: every form loaded, every damage refused, and nothing kept of what is refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plugengine.errors import ImageError, NotFoundError, UsageError
from plugengine.images.store import ImageStore
from plugengine.images.tar.limits import CONFIG_BYTES, MANIFEST_BYTES
from plugengine.kernel.machine import architecture
from tests.system.images import archives as a
from tests.unit.images.tars import make_tar, member, zstd

NOBODY = 4_294_967_294  # (uid_t) -2
LAYER = a.descriptor(a.LOW, f"{a.OCI}.layer.v1.tar")
OUTER: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
}


def load(store: ImageStore, parts: dict[str, bytes]) -> Any:
    return store.load(io.BytesIO(a.pack(parts)))


def assert_refused(store: ImageStore, match: str, parts: dict[str, bytes] | bytes) -> None:
    """The archive is refused, and the store is as empty as before."""
    data = parts if isinstance(parts, bytes) else a.pack(parts)
    with pytest.raises(ImageError, match=match):
        store.load(io.BytesIO(data))
    assert store.list() == []
    assert store.check() == []
    assert store.files.layer_ids() == store.files.blob_digests() == set()


def motd(image: Any) -> str:
    return Path(image.layers[-1], "etc/motd").read_text()


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", a.PACK)
@pytest.mark.parametrize("form", ["docker", "oci"])
def test_every_form_and_compression_is_loaded(store: ImageStore, form: str, inner: str, outer: str) -> None:
    parts = (a.docker_parts if form == "docker" else a.oci_parts)(a.LOW, a.HIGH, compression=inner)
    [image] = store.load(io.BytesIO(OUTER[outer](a.pack(parts))))
    assert (image.names, image.diff_ids) == (("web:1",), (a.digest(a.LOW), a.digest(a.HIGH)))
    assert image.id == a.digest(a.encoded(a.config(a.LOW, a.HIGH)))
    assert (image.config.cmd, image.config.env, image.created) == (("/bin/sh",), ("A=b",), "2024-01-02T03:04:05Z")
    assert motd(image) == "high\n"
    assert store.get("web:1") == image
    assert store.check() == []


def write_all(fd: int, data: bytes) -> None:
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def test_an_archive_is_read_from_a_file_a_pipe_and_a_directory(store: ImageStore, tmp_path: Path) -> None:
    parts = a.oci_parts(a.LOW)
    (tmp_path / "a.tar").write_bytes(a.pack(parts))
    for name, content in parts.items():
        (tmp_path / "layout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "layout" / name).write_bytes(content)
    [from_file] = store.load(str(tmp_path / "a.tar"))
    [from_directory] = store.load(str(tmp_path / "layout"))
    read, write = os.pipe()
    writer = threading.Thread(target=write_all, args=(write, a.pack(parts)))
    writer.start()
    with os.fdopen(read, "rb") as pipe:
        [from_pipe] = store.load(pipe)
    writer.join()
    assert from_file == from_directory == from_pipe


def test_both_forms_of_one_image_are_one_image(store: ImageStore) -> None:
    [docker] = load(store, a.docker_parts(a.LOW, a.HIGH, tags=["one:1"]))
    [oci] = load(store, a.oci_parts(a.LOW, a.HIGH, name="two:2", compression="+gzip"))
    assert (oci.id, oci.layers, oci.names) == (docker.id, docker.layers, ("one:1", "two:2"))
    assert oci.digest != docker.digest
    [again] = load(store, a.docker_parts(a.LOW, a.HIGH, tags=["one:1"]))
    assert again.digest == oci.digest  # a manifest that came with the image is worth more than one of ours
    assert store.check() == []


def test_several_images_and_names_of_one_archive_are_loaded(store: ImageStore) -> None:
    one, two = a.docker_parts(a.LOW, tags=["one:1", "uno"]), a.docker_parts(a.HIGH, tags=[])
    both = json.loads(one["manifest.json"]) + json.loads(two["manifest.json"])
    both[1]["Layers"] = ["high.tar"]
    parts = {**two, **one, "high.tar": a.HIGH, "manifest.json": a.encoded(both)}
    names = [image.names for image in load(store, parts)]
    assert names == [("one:1", "uno:latest"), ()]


def test_a_layer_that_is_a_link_to_another_is_followed_as_docker_wrote_it(store: ImageStore) -> None:
    body = a.encoded(a.config(a.LOW, a.LOW))
    manifest = [{"Config": "c.json", "RepoTags": None, "Layers": ["x/layer.tar", "y/layer.tar"]}]
    tar = make_tar(
        [
            member("y", "directory"), member("y/layer.tar", "symlink", linkname="../x/layer.tar"),
            member("x/layer.tar", content=a.LOW), member("c.json", content=body),
            member("manifest.json", content=a.encoded(manifest)),
        ]
    )  # fmt: skip
    [image] = store.load(io.BytesIO(tar))
    assert image.diff_ids == (a.digest(a.LOW), a.digest(a.LOW))
    assert store.get(image.id).size_bytes == image.size_bytes


@pytest.mark.parametrize("outer", OUTER)
def test_tars_without_an_end_marker_are_loaded_and_imported_alike(store: ImageStore, outer: str) -> None:
    layer = a.LOW.rstrip(b"\0")
    layer += bytes(-len(layer) % 512)
    assert len(layer) < len(a.LOW) - 512
    archive = a.pack(a.docker_parts(layer)).rstrip(b"\0")
    archive += bytes(-len(archive) % 512)
    [loaded] = store.load(io.BytesIO(OUTER[outer](archive)))
    imported = store.import_rootfs(io.BytesIO(OUTER[outer](layer)), "x")
    assert motd(loaded) == motd(imported) == "low\n"


@pytest.mark.parametrize("id_", [-2, NOBODY])
def test_an_image_whose_files_are_nobodys_is_loaded(store: ImageStore, id_: int) -> None:
    layer = make_tar([member("f", uid=id_, gid=id_)], form=tarfile.GNU_FORMAT)
    [image] = load(store, a.docker_parts(layer))
    found = os.stat(f"{image.layers[-1]}/f")
    assert (found.st_uid, found.st_gid) == (NOBODY, NOBODY)


def test_of_several_platforms_this_machine_gets_its_own(store: ImageStore) -> None:
    mine, other = a.oci_parts(a.LOW), a.oci_parts(a.HIGH)
    [first], [second] = (json.loads(parts["index.json"])["manifests"] for parts in (other, mine))
    first["platform"] = {"os": "linux", "architecture": "s390y"}
    second["platform"] = {"os": "linux", "architecture": architecture()}
    nested = a.index(first, second)
    top = a.index(a.descriptor(nested, a.INDEX_TYPE, annotations={"org.opencontainers.image.ref.name": "multi:1"}))
    parts = {**mine, "index.json": top, **dict([a.blob(nested)])}  # the other platform's blobs are not even there
    [image] = load(store, parts)
    assert (image.names, image.diff_ids) == (("multi:1",), (a.digest(a.LOW),))


@pytest.mark.parametrize(
    ("annotations", "names"),
    [
        ({"org.opencontainers.image.ref.name": "docker.io/library/web:2"}, ("web:2",)),
        ({"org.opencontainers.image.ref.name": "busybox"}, ("busybox:latest",)),
        ({"org.opencontainers.image.ref.name": "latest"}, ()),
        ({"org.opencontainers.image.ref.name": "1.36"}, ()),
        ({"org.opencontainers.image.ref.name": "v", "io.containerd.image.name": "docker.io/me/x:v"}, ("me/x:v",)),
        ({}, ()),
    ],
)
def test_the_name_of_an_oci_image_is_found_where_tools_put_it(
    store: ImageStore, annotations: dict[str, str], names: tuple[str, ...]
) -> None:
    parts = a.oci_parts(a.LOW)
    [manifest] = json.loads(parts["index.json"])["manifests"]
    [image] = load(store, {**parts, "index.json": a.index({**manifest, "annotations": annotations})})
    assert image.names == names


@pytest.mark.parametrize("compression", a.PACK)
def test_progress_is_told_in_stored_bytes_of_all_there_are(store: ImageStore, compression: str) -> None:
    seen: list[tuple[str, int, int | None]] = []
    parts = a.docker_parts(a.LOW, compression=compression)
    store.load(io.BytesIO(a.pack(parts)), progress=lambda *args: seen.append(args))
    size = len(parts["0/layer.tar"])
    assert seen[-1] == (f"layer {a.digest(a.LOW)[7:19]}", size, size)


def test_progress_of_an_import_knows_the_size_of_a_file_but_not_of_a_pipe(store: ImageStore, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    (tmp_path / "root.tar.gz").write_bytes(gzip.compress(a.LOW))
    size = len(gzip.compress(a.LOW))
    with (tmp_path / "root.tar.gz").open("rb") as file:
        store.import_rootfs(str(tmp_path / "root.tar.gz"), "x:1", progress=lambda *args: seen.append(args))
        store.import_rootfs(file, "x:2", progress=lambda *args: seen.append(args))
    store.import_rootfs(io.BytesIO(gzip.compress(a.LOW)), "x:3", progress=lambda *args: seen.append(args))
    ends = [(done, total) for _, done, total in seen if done == size]
    assert list(dict.fromkeys(ends)) == [(size, size), (size, None)]


# --- layers named more than once ---


def test_a_layer_named_many_times_is_unpacked_once(store: ImageStore) -> None:
    layers = [a.LOW, *[a.HIGH, a.LOW] * 100]
    parts = a.docker_parts(*layers)
    seen: list[str] = []
    [image] = store.load(io.BytesIO(a.pack(parts)), progress=lambda what, done, total: seen.append(what))
    assert image.diff_ids == tuple(map(a.digest, layers))
    assert list(dict.fromkeys(seen)) == [f"layer {a.digest(one)[7:19]}" for one in (a.LOW, a.HIGH)]
    assert store.files.layer_ids() == {a.digest(a.LOW), a.digest(a.HIGH)}
    assert store.check() == []


def test_a_layer_two_images_of_an_archive_share_is_unpacked_once(store: ImageStore) -> None:
    one, two = a.docker_parts(a.LOW, tags=["one"]), a.docker_parts(a.LOW, tags=["two"], author="other")
    both = json.loads(one["manifest.json"]) + json.loads(two["manifest.json"])
    both[1]["Layers"] = ["second.tar"]
    parts = {**two, **one, "second.tar": b"not read: the first is the same layer", "manifest.json": a.encoded(both)}
    first, second = load(store, parts)
    assert first.layers == second.layers
    assert first.id != second.id


def test_a_layer_the_store_has_is_not_read_again(store: ImageStore) -> None:
    parts = a.docker_parts(a.LOW, a.HIGH, compression="+gzip")
    [image] = load(store, parts)
    assert load(store, {**parts, "0/layer.tar": b"gone", "1/layer.tar": b""}) == (image,)


def test_the_tar_size_of_a_layer_added_by_an_older_engine_is_found_out_once(store: ImageStore) -> None:
    parts = a.docker_parts(a.LOW, compression="+gzip")
    [image] = load(store, parts)
    with store.state.transaction() as cursor:
        cursor.execute("UPDATE layers SET tar_bytes = NULL")
    assert load(store, parts) == (image,)
    assert load(store, {**parts, "0/layer.tar": b"not read"}) == (image,)


# --- tables of contents that ask for more work than they weigh ---


def test_an_image_of_more_layers_than_overlayfs_takes_is_refused(store: ImageStore) -> None:
    parts = a.docker_parts(*[make_tar([])] * 2)
    body = a.encoded(a.config(*[make_tar([])] * 100_000))
    manifest = [{"Config": "c.json", "RepoTags": ["x"], "Layers": ["0/layer.tar"] * 100_000}]
    begin = time.process_time()
    assert_refused(
        store, "has 100000 layers, more than the 500", {**parts, "c.json": body, "manifest.json": a.encoded(manifest)}
    )
    assert time.process_time() - begin < 10


def test_an_archive_that_names_more_images_than_any_real_one_is_refused(store: ImageStore) -> None:
    entry = {"Config": "manifest.json", "Layers": []}
    assert_refused(store, "names 1001 images", {"manifest.json": a.encoded([entry] * 1001)})
    parts = a.oci_parts(a.LOW)
    [manifest] = json.loads(parts["index.json"])["manifests"]
    names = [{**manifest, "annotations": {"org.opencontainers.image.ref.name": f"x:{n}"}} for n in range(1001)]
    assert_refused(store, "names 1001 images", {**parts, "index.json": a.index(*names)})


def test_one_large_config_that_is_read_again_and_again_is_refused(store: ImageStore) -> None:
    body = a.encoded({**a.config(a.LOW), "padding": "x" * (7 << 20)})
    manifest = [{"Config": "c.json", "RepoTags": [f"x:{n}"], "Layers": ["0/layer.tar"]} for n in range(20)]
    assert_refused(
        store,
        "more than 67108864 bytes of manifests and configs",
        {**a.docker_parts(a.LOW), "c.json": body, "manifest.json": a.encoded(manifest)},
    )


# --- damage ---


def replaced(parts: dict[str, bytes], old: bytes, new: bytes) -> dict[str, bytes]:
    """Change one blob, but not the name it has by its digest."""
    name = f"blobs/sha256/{a.digest(old)[7:]}"
    assert name in parts
    return {**parts, name: new}


EVIL = make_tar([member("etc/evil", content=b"x" * 700)])


@pytest.mark.parametrize("compression", a.PACK)
def test_an_oci_layer_with_the_wrong_digest_is_refused(store: ImageStore, compression: str) -> None:
    pack = a.PACK[compression]
    parts = replaced(a.oci_parts(a.LOW, compression=compression), pack(a.LOW), pack(EVIL))
    assert_refused(store, "digest|bytes, not", parts)


def test_a_layer_packed_anew_is_refused_though_its_content_is_right(store: ImageStore) -> None:
    stored = gzip.compress(a.LOW)
    other = gzip.compress(a.LOW, 1)
    other += b"\0" * (len(stored) - len(other))
    if len(other) > len(stored):
        stored, other = other, stored
    manifest = {"layers": [{**a.descriptor(stored, f"{a.OCI}.layer.v1.tar+gzip"), "size": len(other)}]}
    parts = a.oci_parts(a.LOW, compression="+gzip", manifest=manifest)
    parts[f"blobs/sha256/{a.digest(stored)[7:]}"] = other
    assert_refused(store, "layer .*: its digest is", parts)


def test_a_docker_layer_that_is_not_the_one_the_config_names_is_refused(store: ImageStore) -> None:
    assert_refused(store, f"its digest is {a.digest(EVIL)}", {**a.docker_parts(a.LOW), "0/layer.tar": EVIL})


def test_a_config_or_manifest_with_the_wrong_digest_is_refused(store: ImageStore) -> None:
    body = a.encoded(a.config(a.LOW))
    same_size = body.replace(b"/bin/sh", b"/bin/ev")
    parts = a.docker_parts(a.LOW)
    assert_refused(store, "config .*: its digest is", {**parts, f"{a.digest(body)[7:]}.json": same_size})
    assert_refused(store, "its digest is", replaced(a.oci_parts(a.LOW), body, same_size))
    assert_refused(store, "bytes, not", replaced(a.oci_parts(a.LOW), body, body + b" "))
    manifest = next(part for part in a.oci_parts(a.LOW).values() if b'"layers"' in part and b"config.v1" in part)
    assert_refused(store, "its digest is", replaced(a.oci_parts(a.LOW), manifest, manifest.replace(b"tar", b"rat")))


@pytest.mark.parametrize("part", ["0/layer.tar", "config", "manifest.json"])
def test_a_missing_part_of_a_docker_archive_is_named(store: ImageStore, part: str) -> None:
    parts = a.docker_parts(a.LOW)
    name = next(one for one in parts if part in (one, "config") and (part != "config" or one.endswith(".json")))
    del parts[name]
    assert_refused(store, "no image archive" if part == "manifest.json" else f"{name} is missing", parts)


@pytest.mark.parametrize("part", ["config", "manifest", "layer"])
def test_a_missing_blob_of_an_oci_archive_is_named(store: ImageStore, part: str) -> None:
    parts = a.oci_parts(a.LOW)
    marks = {"config": b"diff_ids", "manifest": b"config.v1", "layer": b"motd"}
    name = next(one for one, content in parts.items() if one.startswith("blobs") and marks[part] in content)
    del parts[name]
    assert_refused(store, f"{name} is missing", parts)


@pytest.mark.parametrize("form", ["docker", "oci"])
def test_every_truncation_of_an_archive_is_refused(store: ImageStore, form: str) -> None:
    data = a.pack((a.docker_parts if form == "docker" else a.oci_parts)(a.LOW, a.HIGH))
    packed = gzip.compress(data)
    for length in range(0, len(data.rstrip(b"\0")), 1777):
        assert_refused(store, "truncated|missing|no image archive", data[:length])
        assert_refused(store, "truncated|no image archive", packed[: len(packed) * length // len(data)])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"manifest.json": b"{"}, "not JSON"),
        ({"manifest.json": b"[]"}, "names no image"),
        ({"manifest.json": b"[1]"}, "an image without a config"),
        ({"manifest.json": b'[{"Config": "0/layer.tar", "Layers": []}]'}, "not JSON"),
        ({"manifest.json": b'[{"Config": "../../etc/passwd", "Layers": []}]'}, "is missing"),
        ({"manifest.json": b'[{"Config": "manifest.json", "Layers": "x"}]'}, "Layers is not a list of strings"),
        ({"manifest.json": b'[{"Config": "manifest.json", "Layers": [], "RepoTags": 3}]'}, "RepoTags is not"),
        ({"manifest.json": b'[{"Config": "manifest.json", "Layers": false}]'}, "Layers is not a list of strings"),
        ({"manifest.json": b" " * (MANIFEST_BYTES + 1)}, "more than 4194304"),
        ({"manifest.json": b'[{"Config": "c", "Layers": []}]', "c": b" " * (CONFIG_BYTES + 1)}, "more than 8388608"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_table_of_contents_that_makes_no_sense_is_refused(
    store: ImageStore, changes: dict[str, bytes], match: str
) -> None:
    assert_refused(store, match, {**a.docker_parts(a.LOW), **changes})


@pytest.mark.parametrize(
    ("manifest", "match"),
    [
        ({"manifests": []}, "ambiguous"),
        ({"mediaType": a.INDEX_TYPE}, "was announced as"),
        ({"layers": []}, "its config names 1 layers, its manifest 0"),
        ({"layers": [a.descriptor(a.LOW, "application/x-executable")]}, "unknown kind"),
        ({"layers": [{**LAYER, "digest": "sha256:../../../../etc/passwd"}]}, "not sha256"),
        ({"layers": [{**LAYER, "size": 7}]}, f"has {len(a.LOW)} bytes, not 7"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_manifest_that_misleads_is_refused(store: ImageStore, manifest: dict[str, Any], match: str) -> None:
    assert_refused(store, match, a.oci_parts(a.LOW, manifest=manifest))


def test_an_index_that_leads_to_itself_is_refused(store: ImageStore) -> None:
    # A digest cannot lead to itself, but a long chain comes close.
    inner = a.index(*json.loads(a.oci_parts(a.LOW)["index.json"])["manifests"])
    blobs = dict([a.blob(inner)])
    for _ in range(8):
        inner = a.index(a.descriptor(inner, a.INDEX_TYPE))
        blobs.update([a.blob(inner)])
    assert_refused(store, "nested too deep", {**a.oci_parts(a.LOW), "index.json": inner, **blobs})


def test_a_malformed_name_in_an_archive_is_refused_before_anything_is_kept(store: ImageStore) -> None:
    with pytest.raises(UsageError, match="image name"):
        load(store, a.docker_parts(a.LOW, tags=["../../etc"]))
    with pytest.raises(UsageError, match="made on demand"):
        load(store, a.docker_parts(a.LOW, tags=["host:base"]))
    assert store.list() == []
    assert store.files.layer_ids() == set()


def test_when_one_of_two_images_is_damaged_none_is_loaded(store: ImageStore) -> None:
    good, bad = a.docker_parts(a.LOW, tags=["good:1"]), a.docker_parts(a.HIGH, tags=["bad:1"])
    both = json.loads(good["manifest.json"]) + json.loads(bad["manifest.json"])
    both[1]["Layers"] = ["evil.tar"]
    assert_refused(store, "its digest is", {**bad, **good, "evil.tar": EVIL, "manifest.json": a.encoded(both)})


def test_a_hostile_layer_inside_an_archive_is_refused_like_any_other(store: ImageStore) -> None:
    assert_refused(store, "leads out of the layer", a.docker_parts(make_tar([member("../../evil", content=b"x")])))


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x1f\x8b", b"\0" * 10240], ids=["empty", "text", "gzip magic", "zeros"]
)
def test_what_is_no_archive_is_refused(store: ImageStore, data: bytes) -> None:
    assert_refused(store, "truncated|not a tar archive|damaged|no image archive", data)


def test_a_root_filesystem_is_refused_with_the_right_command(store: ImageStore) -> None:
    with pytest.raises(ImageError, match="no image archive") as caught:
        store.load(io.BytesIO(a.LOW))
    assert caught.value.hint == "a tar of a root filesystem is loaded with pe import"


def test_a_missing_file_is_named(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"archive {tmp_path}/none.tar: no such file"):
        store.load(str(tmp_path / "none.tar"))


def test_a_layout_directory_cannot_lead_out_by_a_symlink(store: ImageStore, tmp_path: Path) -> None:
    parts = a.oci_parts(a.LOW)
    (tmp_path / "index.json").write_bytes(parts["index.json"])
    layout = tmp_path / "layout"
    layout.mkdir()
    (layout / "oci-layout").write_bytes(parts["oci-layout"])
    os.symlink("../index.json", layout / "index.json")
    with pytest.raises(ImageError, match=r"index.json: too many levels"):
        store.load(str(layout))
    (layout / "index.json").unlink()
    os.mkfifo(layout / "index.json")
    with pytest.raises(ImageError, match=r"index.json is no regular file"):
        store.load(str(layout))

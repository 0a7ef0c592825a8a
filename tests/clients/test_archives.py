"""Archives written by buildah and skopeo load, and what is in them runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.clients.conftest import APP_ID, Archive

if TYPE_CHECKING:
    from tests.conftest import Pe

KINDS = (
    "oci_gzip",
    "oci_zstd",
    "oci_by_skopeo",
    "oci_index_first",
    "docker_plain",
    "docker_by_skopeo",
    "docker_gzip",
    "docker_zstd",
)
STORAGES = ("overlay", "fuse_union")
EXIT_ENGINE = 125


def run_in(pe: Pe, archive: Archive, *command: str, storage: str = "overlay") -> str:
    """Load an archive, run a command in its image, return what it printed."""
    pe("load", "-i", str(archive.path), check=True)
    return pe("run", "--rm", "--net", "none", "--storage", storage, archive.name, *command, check=True).stdout.strip()


def listed(pe: Pe) -> list[list[str]]:
    """Return repository, tag and id of every image; what follows them is an age, which changes."""
    return [line.split()[:3] for line in pe("images", check=True).stdout.splitlines()]


@pytest.fixture
def loaded(pe: Pe, oci_gzip: Archive) -> Archive:
    """buildah's usual archive, loaded."""
    pe("load", "-i", str(oci_gzip.path), check=True)
    return oci_gzip


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_loads_and_its_command_runs(pe: Pe, kind: str, request: pytest.FixtureRequest) -> None:
    archive: Archive = request.getfixturevalue(kind)
    assert run_in(pe, archive) == "hello from the second layer"


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [
        ("oci_gzip", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("oci_zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("oci_by_skopeo", "application/vnd.oci.image.layer.v1.tar+zstd"),
    ],
)
def test_the_archives_are_compressed_as_their_names_say(
    kind: str, media_type: str, request: pytest.FixtureRequest
) -> None:
    archive: Archive = request.getfixturevalue(kind)
    assert archive.media_types() == {media_type}


def test_load_says_the_name_it_loaded(pe: Pe, oci_gzip: Archive) -> None:
    assert oci_gzip.name in pe("load", "-i", str(oci_gzip.path), check=True).stdout


def test_a_loaded_image_is_listed_under_its_name(pe: Pe, loaded: Archive) -> None:
    repository, _, tag = loaded.name.partition(":")
    assert [repository, tag] in [row[:2] for row in listed(pe)]


@pytest.mark.parametrize("storage", STORAGES)
def test_a_file_deleted_by_a_layer_is_not_there(pe: Pe, oci_gzip: Archive, storage: str) -> None:
    names = run_in(pe, oci_gzip, "ls", "-A", "/data", storage=storage).split()
    assert names == ["first", "greeting", "kept", "link", "replaced", "second"]


@pytest.mark.parametrize("storage", STORAGES)
def test_a_directory_replaced_by_a_layer_shows_nothing_of_the_old_one(pe: Pe, oci_gzip: Archive, storage: str) -> None:
    assert run_in(pe, oci_gzip, "ls", "-A", "/data/replaced", storage=storage) == "fresh"


@pytest.mark.parametrize("storage", STORAGES)
def test_modes_owners_and_hard_links_survive(pe: Pe, oci_gzip: Archive, storage: str) -> None:
    seen = run_in(
        pe, oci_gzip, "stat", "-c", "%n %a %u %h %F", "/data/first", "/data/second", "/data/kept", storage=storage
    )
    assert seen.splitlines() == [
        "/data/first 4750 0 2 regular file",
        "/data/second 4750 0 2 regular file",
        f"/data/kept 755 {APP_ID} 2 directory",
    ]


def test_environment_user_and_directory_are_those_of_the_image(pe: Pe, oci_gzip: Archive) -> None:
    seen = run_in(pe, oci_gzip, "sh", "-c", 'echo "$COLOUR $(id -u) $(id -g) $(id -un) $PWD $HOME"')
    assert seen == f"green {APP_ID} {APP_ID} app /data /data"


def test_inspect_shows_the_configuration_that_buildah_wrote(pe: Pe, loaded: Archive) -> None:
    (image,) = json.loads(pe("image", "inspect", loaded.name, check=True).stdout)
    config = image["Config"]
    assert config["Labels"]["org.example.kind"] == "client"
    assert config["StopSignal"] == "SIGUSR1"
    assert list(config["ExposedPorts"]) == ["8080/tcp"]
    assert config["Cmd"] == ["cat", "greeting"]


def test_one_image_in_four_archives_is_one_set_of_layers(
    pe: Pe, oci_gzip: Archive, oci_zstd: Archive, docker_plain: Archive, oci_by_skopeo: Archive
) -> None:
    inspected = []
    for archive in (oci_gzip, oci_zstd, docker_plain, oci_by_skopeo):
        pe("load", "-i", str(archive.path), check=True)
        (image,) = json.loads(pe("image", "inspect", archive.name, check=True).stdout)
        inspected.append(image["RootFS"]["Layers"])
    assert len(inspected[0]) == 2
    assert inspected == [inspected[0]] * 4


def test_loading_twice_adds_nothing(pe: Pe, loaded: Archive) -> None:
    before = listed(pe)
    pe("load", "-i", str(loaded.path), check=True)
    assert listed(pe) == before


@pytest.mark.parametrize("kind", ["oci_gzip", "docker_plain", "docker_zstd"])
def test_an_archive_cut_short_is_refused_by_name(pe: Pe, kind: str, request: pytest.FixtureRequest) -> None:
    archive: Archive = request.getfixturevalue(kind)
    cut = archive.path.with_name(f"cut-{archive.path.name}")
    cut.write_bytes(archive.path.read_bytes()[: archive.path.stat().st_size * 2 // 3])
    before = listed(pe)
    done = pe("load", "-i", str(cut))
    assert done.returncode == EXIT_ENGINE
    assert done.stderr.startswith("pe: ")
    assert cut.name in done.stderr
    assert listed(pe) == before

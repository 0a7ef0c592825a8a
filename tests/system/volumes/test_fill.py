"""A new volume gets what the image has at its path, and nothing of the host."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from plugengine import volumes
from plugengine.errors import NoSpaceError
from plugengine.kernel import mount
from plugengine.state.locations import Locations
from plugengine.state.state import State
from tests.system.trees.conftest import InChild


@pytest.fixture
def data(state: State, locations: Locations) -> Path:
    volumes.create(state, locations, "data")
    return Path(locations.volume_data("data"))


def fill(rootfs: Path, guest: str, data: Path) -> None:
    volumes.fill(str(rootfs), guest, str(data))


def test_content_owner_and_mode_of_the_directory_are_copied(rootfs: Path, data: Path) -> None:
    (rootfs / "srv/data/f").write_text("x")
    os.chown(rootfs / "srv/data", 33, 34)
    os.chmod(rootfs / "srv/data", 0o2770)
    fill(rootfs, "/srv/data", data)
    assert (data / "f").read_text() == "x"
    found = os.stat(data)
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (33, 34, 0o2770)
    assert os.listdir(data.parent) == ["_data"]


def test_an_empty_directory_gives_its_owner_and_mode(rootfs: Path, data: Path) -> None:
    os.chmod(rootfs / "srv/data", 0o700)
    fill(rootfs, "/srv/data", data)
    assert stat.S_IMODE(os.stat(data).st_mode) == 0o700


def test_a_volume_with_content_stays_as_it_is(rootfs: Path, data: Path) -> None:
    (rootfs / "srv/data/f").write_text("of the image")
    (data / "g").write_text("mine")
    fill(rootfs, "/srv/data", data)
    assert os.listdir(data) == ["g"]


@pytest.mark.parametrize("guest", ["/missing", "/srv/file", "/srv/file/x", "/loop"])
def test_without_a_directory_in_the_image_nothing_happens(rootfs: Path, data: Path, guest: str) -> None:
    (rootfs / "srv/file").write_text("x")
    (rootfs / "loop").symlink_to("loop")
    fill(rootfs, guest, data)
    assert os.listdir(data) == []


@pytest.mark.parametrize("target", ["/secret", "../../../../../../secret", "{host}"])
def test_a_symlink_of_the_image_does_not_reach_the_host(rootfs: Path, data: Path, tmp_path: Path, target: str) -> None:
    """CVE-2022-23648."""
    host = tmp_path / "secret"
    host.mkdir()
    (host / "key").write_text("of the host")
    (rootfs / "vol").symlink_to(target.format(host=host))
    fill(rootfs, "/vol", data)
    assert os.listdir(data) == []
    (rootfs / "secret").mkdir()
    (rootfs / "secret/own").touch()
    if target != "{host}":
        fill(rootfs, "/vol", data)
        assert os.listdir(data) == ["own"]


def test_an_absolute_symlink_inside_the_image_works(rootfs: Path, data: Path) -> None:
    (rootfs / "run").mkdir()
    (rootfs / "run/f").touch()
    (rootfs / "var").mkdir()
    (rootfs / "var/run").symlink_to("/run")
    fill(rootfs, "/var/run", data)
    assert os.listdir(data) == ["f"]


def test_symlinks_in_the_content_stay_symlinks(rootfs: Path, data: Path) -> None:
    (rootfs / "srv/data/l").symlink_to("/etc/passwd")
    fill(rootfs, "/srv/data", data)
    assert os.readlink(data / "l") == "/etc/passwd"


def test_a_copy_cut_short_is_begun_anew(rootfs: Path, data: Path) -> None:
    """Killed at many points, it never leaves a half-filled volume that counts as filled."""
    for number in range(300):
        (rootfs / "srv/data" / f"{number}").write_text("x")
    for attempt in range(6):
        child = multiprocessing.get_context("fork").Process(target=fill, args=(rootfs, "/srv/data", data))
        child.start()
        time.sleep(0.001 * 2**attempt)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        child.close()
    fill(rootfs, "/srv/data", data)
    assert len(os.listdir(data)) == 300
    assert os.listdir(data.parent) == ["_data"]


def test_two_containers_that_start_at_once_fill_it_once(rootfs: Path, data: Path) -> None:
    for number in range(300):
        (rootfs / "srv/data" / f"{number}").write_text("x")
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=fill, args=(rootfs, "/srv/data", data)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert len(os.listdir(data)) == 300


def test_without_space_the_volume_is_empty_again_and_the_error_says_so(
    rootfs: Path, data: Path, in_mount_namespace: InChild
) -> None:
    (rootfs / "srv/data/a").write_bytes(b"x" * 1000)
    (rootfs / "srv/data/b").write_bytes(b"x" * (2 << 20))

    def work() -> list[str]:
        mount.mount("none", str(data.parent), "tmpfs", 0, "size=1m")
        data.mkdir()
        with pytest.raises(NoSpaceError, match="/srv/data"):
            fill(rootfs, "/srv/data", data)
        return [*os.listdir(data), *os.listdir(data.parent)]

    assert in_mount_namespace(work) == ["_data"]

"""Where things are: roots from arguments and environment, modes of directories, lengths of socket names."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from plugengine.errors import StateError
from plugengine.model import HostPath
from plugengine.state.locations import Locations
from plugengine.state.names import new_id

SOCKET_ADDRESS_BYTES = 108  # sun_path, unix(7)


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def locations(tmp_path: Path) -> Locations:
    return Locations(HostPath(str(tmp_path / "root")), HostPath(str(tmp_path / "run")))


def test_an_argument_wins_over_the_environment_and_that_over_the_default() -> None:
    environ = {"PLUGENGINE_ROOT": "/e/root", "PLUGENGINE_RUN_ROOT": "/e/run"}
    assert Locations.from_environment({}) == Locations(HostPath("/var/lib/plugengine"), HostPath("/run/plugengine"))
    assert Locations.from_environment(environ).root == "/e/root"
    assert Locations.from_environment(environ, root="/a").root == "/a"
    assert Locations.from_environment(environ, root="/a").run_root == "/e/run"


def test_a_relative_root_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Locations.from_environment({}, root="x/../y").root == str(tmp_path / "y")


def test_directories_are_closed_to_other_users(tmp_path: Path) -> None:
    found = locations(tmp_path)
    found.ensure()
    found.ensure()
    assert mode(found.root) == 0o711
    assert mode(found.run_root) == 0o700
    for path in (found.blobs, found.layers, found.containers, found.volumes, found.tmp, found.run_containers):
        assert mode(path) == 0o700, path


def test_a_directory_that_is_too_open_is_closed_and_one_that_is_stricter_stays(tmp_path: Path) -> None:
    found = locations(tmp_path)
    os.mkdir(found.root)
    os.chmod(found.root, 0o700)
    os.mkdir(found.layers)
    os.chmod(found.layers, 0o777)
    found.ensure()
    assert (mode(found.root), mode(found.layers)) == (0o700, 0o700)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    found = locations(tmp_path)
    Path(found.root).touch()
    with pytest.raises(StateError, match=str(found.root)):
        found.ensure()


def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give a directory away")
    found = locations(tmp_path)
    os.mkdir(found.root)
    os.chown(found.root, 12345, 12345)
    with pytest.raises(StateError, match="belongs to user 12345"):
        found.ensure()


def test_the_monitors_socket_fits_into_an_address_for_a_run_root_of_60_bytes() -> None:
    found = Locations(HostPath("/r"), HostPath("/" + "x" * 59))
    assert len(found.monitor_socket(new_id())) < SOCKET_ADDRESS_BYTES


def test_two_containers_share_no_path() -> None:
    found = Locations(HostPath("/r"), HostPath("/s"))
    one, two = new_id(), new_id()
    for path in (found.container, found.run, found.log, found.rootfs, found.monitor_socket):
        assert path(one) != path(two)
    assert found.run(one).endswith(found.run_name(one))


def test_engines_that_share_a_run_root_share_no_directory_of_a_container_and_know_their_own() -> None:
    mine, others = Locations(HostPath("/a"), HostPath("/run")), Locations(HostPath("/b"), HostPath("/run"))
    container = new_id()
    assert mine.run(container) != others.run(container)
    assert mine.run_name(container).startswith(mine.run_prefix)
    assert not others.run_name(container).startswith(mine.run_prefix)


def test_a_root_has_one_name_whatever_link_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "link").symlink_to("root")
    assert Locations.from_environment({}, root=str(tmp_path / "link")).root == str(tmp_path / "root")

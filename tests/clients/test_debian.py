"""A Debian root made by mmdebstrap is imported whole, and its own tools work in it."""

from __future__ import annotations

import stat
import tarfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Pe

IMAGE = "debian-root:test"
STORAGES = ("overlay", "fuse_union")
TIMEOUT_S = 110
# The engine mounts its own over these, or something below them.
ENGINE_OWNED = ("./dev", "./proc", "./sys", "./etc/hosts", "./etc/hostname", "./etc/resolv.conf")
# Where the engine may add a mount point, which changes a directory's time.
ENGINE_TOUCHED = (".", "./etc")
# One line an entry: type, mode, owner, group, mtime in seconds, target of a link, path; see find(1).
FIND_FORMAT = r"%y %m %U %G %Ts %l %p\n"
# Builds, installs, checks and removes a package: renames, hard links, fsync and truncation as dpkg does them.
DPKG_ROUND = """
set -e
mkdir -p /build/DEBIAN /build/usr/share/pe-sample
printf 'Package: pe-sample\\nVersion: 1\\nArchitecture: all\\nMaintainer: n\\nDescription: d\\n' >/build/DEBIAN/control
printf 'one\\n' >/build/usr/share/pe-sample/file
dpkg-deb --build /build /first.deb >/dev/null
sed -i 's/Version: 1/Version: 2/' /build/DEBIAN/control
printf 'two\\n' >/build/usr/share/pe-sample/file
dpkg-deb --build /build /second.deb >/dev/null
dpkg -i /first.deb >/dev/null
cat /usr/share/pe-sample/file
dpkg -i /second.deb >/dev/null
cat /usr/share/pe-sample/file
dpkg --verify pe-sample
dpkg --purge pe-sample >/dev/null
test ! -e /usr/share/pe-sample && echo removed
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def debian(pe_env: Pe, debian_tar: Path) -> str:
    """The name of the imported Debian root."""
    pe_env("import", str(debian_tar), IMAGE, check=True, timeout=TIMEOUT_S)
    return IMAGE


def run(pe: Pe, image: str, storage: str, *command: str) -> str:
    """Run a command in a container without network; return what it printed."""
    argv = ("run", "--rm", "--net", "none", "--storage", storage, image, *command)
    return pe(*argv, check=True, timeout=TIMEOUT_S).stdout


@pytest.mark.parametrize("storage", STORAGES)
def test_debian_names_itself(pe: Pe, debian: str, storage: str) -> None:
    assert "ID=debian" in run(pe, debian, storage, "cat", "/etc/os-release").splitlines()


@pytest.mark.parametrize("storage", STORAGES)
def test_every_entry_of_the_tar_is_in_the_container_as_it_was_packed(
    pe: Pe, debian: str, debian_tar: Path, storage: str
) -> None:
    expected = packed_lines(debian_tar)
    listing = run(pe, debian, storage, "sh", "-c", f"cd / && find . -xdev -printf '{FIND_FORMAT}'")
    seen = {line for line in listing.splitlines() if not engine_owned(line.rsplit(" ", 1)[1])}
    assert sorted(expected - seen) == []
    assert sorted(seen - expected) == []


@pytest.mark.parametrize("storage", STORAGES)
def test_files_hold_what_the_packages_say(pe: Pe, debian: str, storage: str) -> None:
    # dpkg --verify reads every installed file and compares it with the checksum its package recorded.
    assert run(pe, debian, storage, "dpkg", "--verify") == ""


@pytest.mark.parametrize("storage", STORAGES)
def test_dpkg_installs_upgrades_and_removes_a_package(pe: Pe, debian: str, storage: str) -> None:
    assert run(pe, debian, storage, "sh", "-c", DPKG_ROUND).split() == ["one", "two", "removed"]


def test_a_change_in_one_container_is_not_seen_in_the_next(pe: Pe, debian: str) -> None:
    run(pe, debian, "overlay", "sh", "-c", "rm -rf /usr/share && echo changed >/etc/debian_version")
    seen = run(pe, debian, "overlay", "sh", "-c", "ls -d /usr/share && cat /etc/debian_version")
    assert seen.startswith("/usr/share\n")
    assert "changed" not in seen


def engine_owned(path: str) -> bool:
    """Tell whether the engine, not the image, decides on what is seen at this path."""
    return path in ENGINE_TOUCHED or any(path == owned or path.startswith(f"{owned}/") for owned in ENGINE_OWNED)


def packed_lines(path: Path) -> set[str]:
    """Return the entries of a tar in the form of FIND_FORMAT."""
    lines = set()
    with tarfile.open(path) as archive:
        members = {member.name: member for member in archive}
    for name, member in members.items():
        shown = "." if name in (".", "") else f"./{name.removeprefix('./')}"
        if engine_owned(shown):
            continue
        # A hard link has the attributes of what it links to.
        origin = members[member.linkname] if member.islnk() else member
        lines.add(line_of(origin, shown))
    return lines


def line_of(member: tarfile.TarInfo, shown: str) -> str:
    """Return one entry in the form of FIND_FORMAT."""
    kind = {tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l", tarfile.CHRTYPE: "c"}.get(member.type, "f")
    target = member.linkname if member.issym() else ""
    mode = f"{stat.S_IMODE(member.mode):o}"
    return f"{kind} {mode} {member.uid} {member.gid} {int(member.mtime)} {target} {shown}"

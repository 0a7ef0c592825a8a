"""Volumes of containers with a user namespace: root inside owns them, and on disk they are root's."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from plugengine import mounts
from plugengine.kernel import credentials
from plugengine.model import IdRange, UserMap
from tests.conftest import Pe, need_root
from tests.system import kills
from tests.waiting import eventually

STORAGES = ("overlay", "fuse_union")


@pytest.mark.parametrize("storage", STORAGES)
def test_a_volume_is_filled_and_written_with_the_owners_inside(pe: Pe, storage: str) -> None:
    name = f"mapped-{storage}"
    script = "stat -c %u:%g /etc/passwd; touch /etc/mine; stat -c %u:%g /etc/mine; head -1 /proc/self/uid_map"
    try:
        done = pe(
            "run",
            "--rm",
            "--net",
            "none",
            "--storage",
            storage,
            "--userns",
            "auto",
            "-v",
            f"{name}:/etc",
            "host:base",
            "sh",
            "-c",
            script,
            check=True,
        )
        lines = done.stdout.split("\n")
        assert lines[:2] == ["0:0", "0:0"]
        assert lines[2].split()[1] != "0", "no user namespace"
        data = pe.root / "volumes" / name / "_data"
        assert {(path.stat().st_uid, path.stat().st_gid) for path in (data / "passwd", data / "mine")} == {(0, 0)}
    finally:
        pe("volume", "rm", name)


def test_the_same_volume_serves_containers_with_and_without_a_user_namespace(pe: Pe) -> None:
    try:
        for userns, word in (("auto", "one"), ("host", "two"), ("auto", "three")):
            pe(
                "run",
                "--rm",
                "--net",
                "none",
                "--userns",
                userns,
                "-v",
                "both:/data",
                "host:base",
                "sh",
                "-c",
                f"echo {word} >> /data/words",
                check=True,
            )
        assert (pe.root / "volumes/both/_data/words").read_text() == "one\ntwo\nthree\n"
    finally:
        pe("volume", "rm", "both")


def test_a_part_of_a_volume_has_the_owners_inside_too(pe: Pe) -> None:
    flags = ("run", "--rm", "--net", "none", "--userns", "auto")
    try:
        pe(*flags, "-v", "parts:/v", "host:base", "mkdir", "/v/part", check=True)
        mount = "type=volume,source=parts,target=/x,volume-subpath=part"
        script = "touch /x/mine; stat -c %u:%g /x /x/mine"
        assert pe(*flags, "--mount", mount, "host:base", "sh", "-c", script, check=True).stdout == "0:0\n0:0\n"
        assert (pe.root / "volumes/parts/_data/part/mine").stat().st_uid == 0
    finally:
        pe("volume", "rm", "parts")


@contextmanager
def subreaper() -> Iterator[None]:
    """Be given the orphans of our children."""
    credentials.set_child_subreaper(enabled=True)
    try:
        yield
    finally:
        credentials.set_child_subreaper(enabled=False)


def test_what_holds_a_user_namespace_ends_with_who_made_it() -> None:
    need_root()
    user_map = UserMap(uids=(IdRange(guest=0, host=500_000, size=10),), gids=(IdRange(guest=0, host=500_000, size=10),))

    def die_meanwhile(_pid: int, _map: UserMap) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with subreaper():
        pid = os.fork()
        if pid == 0:
            vars(mounts).update(write_maps=die_meanwhile)
            mounts.user_namespace(user_map)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        orphan = eventually(lambda: kills.children(os.getpid()))
        assert os.waitstatus_to_exitcode(os.waitpid(orphan[0], 0)[1]) == 0

"""What `-v`, `--mount`, `--tmpfs`, `--read-only` and `--shm-size` put into a container's filesystem."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system.conftest import Start, eventually

NONE = ("--net", "none")
RUN = ("run", "--rm", *NONE)


@pytest.fixture
def volume(pe: Pe) -> Iterator[str]:
    """The name of a volume that goes with the test."""
    yield "kept"
    pe("volume", "rm", "kept")


def data_of(pe: Pe, name: str) -> Path:
    """Return where a volume's data is."""
    return Path(json.loads(pe("volume", "inspect", name, check=True).stdout)[0]["Mountpoint"])


# --- bind mounts -------------------------------------------------------------------------------------------


def test_a_directory_of_the_host_is_shared_both_ways(pe: Pe, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from outside\n")
    done = pe(*RUN, "-v", f"{tmp_path}:/b", "host:base", "sh", "-c", "cat /b/in; echo from inside > /b/out", check=True)
    assert done.stdout == "from outside\n"
    assert (tmp_path / "out").read_text() == "from inside\n"


@pytest.mark.parametrize("form", ["-v", "--mount"])
def test_a_read_only_directory_cannot_be_written(pe: Pe, tmp_path: Path, form: str) -> None:
    value = f"{tmp_path}:/b:ro" if form == "-v" else f"type=bind,source={tmp_path},target=/b,readonly"
    done = pe(*RUN, form, value, "host:base", "touch", "/b/file")
    assert "Read-only file system" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_read_only_bind_is_so_for_the_mounts_below_it_too(pe: Pe, tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "x", str(below)], check=True)
    try:
        done = pe(*RUN, "-v", f"{tmp_path}:/b:ro", "host:base", "touch", "/b/below/file")
        assert "Read-only file system" in done.stderr
    finally:
        subprocess.run(["umount", str(below)], check=True)


def test_a_single_file_can_be_mounted(pe: Pe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one file\n")
    done = pe(*RUN, "-v", f"{tmp_path}/file:/etc/motd:ro", "host:base", "cat", "/etc/motd", check=True)
    assert done.stdout == "one file\n"


def test_a_relative_source_is_seen_from_the_callers_directory(pe: Pe, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/file").write_text("relative\n")
    done = pe(*RUN, "-v", "./here:/b", "host:base", "cat", "/b/file", cwd=tmp_path, check=True)
    assert done.stdout == "relative\n"


def test_v_makes_a_missing_source_and_mount_refuses_it(pe: Pe, tmp_path: Path) -> None:
    refused = pe(*RUN, "--mount", f"type=bind,source={tmp_path}/one,target=/b", "host:base", "true")
    assert refused.returncode == 125
    assert f"{tmp_path}/one" in refused.stderr
    pe(*RUN, "-v", f"{tmp_path}/two:/b", "host:base", "touch", "/b/file", check=True)
    assert (tmp_path / "two/file").exists()


def test_what_is_mounted_inside_stays_inside(pe: Pe, tmp_path: Path) -> None:
    script = "mount -t tmpfs x /b && touch /b/hidden"
    pe(*RUN, "--privileged", "-v", f"{tmp_path}:/b", "host:base", "sh", "-c", script, check=True)
    assert not (tmp_path / "hidden").exists()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_a_mount_made_on_the_host_is_seen_inside_only_when_asked_for(pe: Pe, start: Start, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    subprocess.run(["mount", "--bind", "--make-shared", str(tmp_path), str(tmp_path)], check=True)
    try:
        private = start(*NONE, "-v", f"{tmp_path}:/b", "host:base", "sleep", "1000")
        slave = start(*NONE, "-v", f"{tmp_path}:/b:rslave", "host:base", "sleep", "1000")
        subprocess.run(["mount", "-t", "tmpfs", "x", str(tmp_path / "sub")], check=True)
        (tmp_path / "sub/new").touch()
        assert pe("exec", private, "ls", "/b/sub", check=True).stdout == ""
        assert pe("exec", slave, "ls", "/b/sub", check=True).stdout == "new\n"
    finally:
        subprocess.run(["umount", "--recursive", str(tmp_path)], check=True)


def test_a_mount_point_that_is_missing_is_made(pe: Pe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("deep\n")
    done = pe(*RUN, "-v", f"{tmp_path}:/a/b/c", "host:base", "cat", "/a/b/c/file", check=True)
    assert done.stdout == "deep\n"


def test_mounts_may_lie_in_one_another_in_any_order(pe: Pe, tmp_path: Path) -> None:
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    flags = ("-v", f"{tmp_path}/inner:/m/n", "-v", f"{tmp_path}/outer:/m")
    assert pe(*RUN, *flags, "host:base", "ls", "/m", "/m/n", check=True).stdout == "/m:\nn\nouter\n\n/m/n:\ninner\n"


def test_a_target_that_is_a_link_of_the_image_stays_inside(pe: Pe, start: Start, tmp_path: Path) -> None:
    """/var/run is a link to /run in many images; one that leads upwards ends at the root of the container."""
    name = start(*NONE, "-v", f"{tmp_path}:/proc/../up", "host:base", "sleep", "1000")
    pe("exec", name, "touch", "/up/file", check=True)
    assert (tmp_path / "file").exists()


# --- volumes -----------------------------------------------------------------------------------------------


def test_a_named_volume_outlives_its_container(pe: Pe, volume: str) -> None:
    pe(*RUN, "-v", f"{volume}:/v", "host:base", "sh", "-c", "echo kept > /v/file", check=True)
    assert pe(*RUN, "-v", f"{volume}:/w:ro", "host:base", "cat", "/w/file", check=True).stdout == "kept\n"
    assert (data_of(pe, volume) / "file").read_text() == "kept\n"


def test_a_volume_in_use_is_not_removed(pe: Pe, volume: str, start: Start) -> None:
    name = start(*NONE, "-v", f"{volume}:/v", "host:base", "sleep", "1000")
    done = pe("volume", "rm", volume)
    assert done.returncode != 0
    assert volume in done.stderr
    pe("rm", "-f", name, check=True)


def test_a_new_volume_is_filled_with_what_the_image_has_there(pe: Pe, volume: str) -> None:
    listing = pe(*RUN, "host:base", "sh", "-c", "ls -ln /etc | grep -v ' host'", check=True).stdout
    mounted = pe(
        *RUN, "-v", f"{volume}:/etc", "host:base", "sh", "-c", "ls -ln /etc | grep -v ' host'", check=True
    ).stdout
    drop = ("resolv.conf", "total")
    assert [line for line in mounted.splitlines() if not any(word in line for word in drop)] == [
        line for line in listing.splitlines() if not any(word in line for word in drop)
    ]


def test_a_volume_is_filled_once_only(pe: Pe, volume: str) -> None:
    pe(*RUN, "-v", f"{volume}:/etc", "host:base", "sh", "-c", "echo changed > /etc/protocols", check=True)
    done = pe(*RUN, "-v", f"{volume}:/etc", "host:base", "cat", "/etc/protocols", check=True)
    assert done.stdout == "changed\n"


@pytest.mark.parametrize("value", ["{}:/usr/bin:nocopy", "type=volume,source={},target=/usr/bin,volume-nocopy"])
def test_nocopy_leaves_a_new_volume_empty(pe: Pe, volume: str, value: str) -> None:
    flag = "--mount" if value.startswith("type") else "-v"
    pe("create", *NONE, "--name", "never", flag, value.format(volume), "host:base", "/usr/bin/ls", check=True)
    try:
        assert pe("start", "-a", "never").returncode == 127, "the programs are hidden by an empty volume"
        assert not list(data_of(pe, volume).iterdir())
    finally:
        pe("rm", "never", check=True)


def test_an_anonymous_volume_goes_with_rm_v_or_run_rm_only(pe: Pe) -> None:
    def volumes() -> list[str]:
        return pe("volume", "ls", "-q", check=True).stdout.split()

    assert volumes() == []
    pe(*RUN, "-v", "/data", "host:base", "touch", "/data/file", check=True)
    assert volumes() == []
    pe("run", *NONE, "--name", "anon", "-v", "/data", "host:base", "touch", "/data/file", check=True)
    (name,) = volumes()
    pe("rm", "anon", check=True)
    assert volumes() == [name]
    pe("volume", "rm", name, check=True)
    pe("run", *NONE, "--name", "anon", "-v", "/data", "host:base", "true", check=True)
    pe("rm", "-v", "anon", check=True)
    assert volumes() == []


def test_two_running_containers_share_a_volume(pe: Pe, volume: str, start: Start) -> None:
    one = start(*NONE, "--storage", "overlay", "-v", f"{volume}:/v", "host:base", "sleep", "1000")
    two = start(*NONE, "--storage", "fuse_union", "-v", f"{volume}:/v", "host:base", "sleep", "1000")
    pe("exec", one, "sh", "-c", "echo shared > /v/file", check=True)
    assert pe("exec", two, "cat", "/v/file", check=True).stdout == "shared\n"


def subpath(volume: str, path: str, target: str = "/x") -> tuple[str, str]:
    """Return the flag that mounts a part of a volume."""
    return ("--mount", f"type=volume,source={volume},target={target},volume-subpath={path}")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A directory of the host that no container was given."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host/secret").write_text("of the host\n")
    return tmp_path / "host"


def test_a_directory_and_a_file_of_a_volume_can_be_mounted(pe: Pe, volume: str) -> None:
    script = "mkdir -p /v/a/b; echo deep > /v/a/b/file; ln -s a/b /v/link"
    pe(*RUN, "-v", f"{volume}:/v", "host:base", "sh", "-c", script, check=True)
    assert pe(*RUN, *subpath(volume, "a/b"), "host:base", "cat", "/x/file", check=True).stdout == "deep\n"
    assert pe(*RUN, *subpath(volume, "a/b/file"), "host:base", "cat", "/x", check=True).stdout == "deep\n"
    assert pe(*RUN, *subpath(volume, "link"), "host:base", "cat", "/x/file", check=True).stdout == "deep\n"


def test_a_path_in_a_volume_is_looked_up_at_each_start(pe: Pe, volume: str) -> None:
    """It need not exist when the container is made, as with docker."""
    pe("create", *NONE, "--name", "later", *subpath(volume, "a"), "host:base", "cat", "/x/file", check=True)
    try:
        missing = pe("start", "-a", "later")
        assert missing.returncode != 0
        assert f"volume {volume}: path a in it: no such file or directory" in missing.stderr
        for content in ("first", "second"):
            script = f"mkdir /v/new; echo {content} > /v/new/file; mv -T /v/a /v/old-{content}; mv -T /v/new /v/a"
            pe(*RUN, "-v", f"{volume}:/v", "host:base", "sh", "-c", script, check=True)
            assert pe("start", "-a", "later", check=True).stdout == f"{content}\n"
    finally:
        pe("rm", "later", check=True)


@pytest.mark.parametrize("part", ["a", "a/b", "a/b/secret"], ids=["above", "directory", "file"])
def test_a_link_put_into_a_volume_after_create_leads_nowhere(
    pe: Pe, volume: str, secret: Path, tmp_path: Path, part: str
) -> None:
    script = "mkdir -p /v/a/b; echo of the volume > /v/a/b/secret"
    pe(*RUN, "-v", f"{volume}:/v", "host:base", "sh", "-c", script, check=True)
    path = "a/b/secret" if part.endswith("secret") else "a/b"
    flags = subpath(volume, path)
    (tmp_path / "b").symlink_to(secret)
    (tmp_path / "upwards").symlink_to(secret / "secret")
    outside = {"a": tmp_path, "a/b": secret, "a/b/secret": secret / "secret"}[part]
    pe("create", *NONE, "--name", "later", *flags, "host:base", "sh", "-c", "cat /x /x/secret", check=True)
    try:
        for target in (outside, "/".join([".."] * 20) + str(outside)):
            script = f"rm -rf /v/{part} && ln -s {target} /v/{part}"
            pe(*RUN, "-v", f"{volume}:/v", "host:base", "sh", "-c", script, check=True)
            started = pe("start", "-a", "later")
            assert "of the host" not in started.stdout
            assert started.returncode != 0
            assert f"volume {volume}: path {path} in it: leads out of the volume" in started.stderr
    finally:
        pe("rm", "later", check=True)


def test_who_swaps_links_in_a_volume_never_shows_a_container_the_host(
    pe: Pe, volume: str, secret: Path, start: Start
) -> None:
    swap = f"""
        mkdir -p /v/a/b; echo of the volume > /v/a/b/secret; ln -s {secret} /v/a/link
        touch /v/ready
        while :; do mv -T /v/a/b /v/a/kept; mv -T /v/a/link /v/a/b; mv -T /v/a/b /v/a/link; mv -T /v/a/kept /v/a/b; done
    """
    start(*NONE, "-v", f"{volume}:/v", "host:base", "sh", "-c", swap)
    eventually((data_of(pe, volume) / "ready").exists)
    seen = set()
    for _ in range(40):
        done = pe(*RUN, *subpath(volume, "a/b"), "host:base", "cat", "/x/secret")
        seen.add(done.stdout)
        if done.returncode:
            assert f"volume {volume}: path a/b in it: " in done.stderr
    assert seen <= {"", "of the volume\n"}


@pytest.mark.parametrize("path", ["../b", "a/../../b", "/a"])
def test_a_path_in_a_volume_is_relative_and_has_no_way_back(pe: Pe, path: str) -> None:
    refused = pe("create", *NONE, *subpath("unmade", path), "host:base", "true")
    assert refused.returncode == 125
    assert f"path {path!r} in it" in refused.stderr
    assert pe("volume", "ls", "-q", check=True).stdout == ""


def test_inspect_lists_the_mounts(pe: Pe, volume: str, start: Start, tmp_path: Path) -> None:
    name = start(*NONE, "-v", f"{tmp_path}:/b:ro", "-v", f"{volume}:/v", "--tmpfs", "/t", "host:base", "sleep", "1000")
    mounts = {each["Destination"]: each for each in json.loads(pe("inspect", name, check=True).stdout)[0]["Mounts"]}
    assert (mounts["/b"]["Type"], mounts["/b"]["Source"], mounts["/b"]["RW"]) == ("bind", str(tmp_path), False)
    assert (mounts["/v"]["Type"], mounts["/v"]["Name"], mounts["/v"]["RW"]) == ("volume", volume, True)


# --- tmpfs, /dev/shm, read-only ----------------------------------------------------------------------------


def test_a_tmpfs_has_docker_defaults(pe: Pe) -> None:
    done = pe(*RUN, "--tmpfs", "/t", "host:base", "grep", " /t ", "/proc/mounts", check=True)
    _, _, kind, options, *_ = done.stdout.split()
    assert kind == "tmpfs"
    assert {"rw", "nosuid", "nodev", "noexec"} <= set(options.split(","))


def test_a_tmpfs_has_the_same_mode_at_each_start(pe: Pe) -> None:
    flags = ("--user", "65534", "--tmpfs", "/new/test", "--tmpfs", "/root", "--tmpfs", "/given:mode=0750")
    script = "stat -c %a /new /new/test /root /given"
    pe("create", *NONE, "--name", "again", *flags, "host:base", "sh", "-c", script, check=True)
    try:
        started = [pe("start", "-a", "again", check=True).stdout.split() for _ in range(3)]
        assert started == [["755", "1777", "700", "750"]] * 3
    finally:
        pe("rm", "again", check=True)


def test_size_and_mode_of_a_tmpfs_are_kept(pe: Pe) -> None:
    script = "stat -c %a /t; df -k --output=size /t | tail -1; head -c 3m /dev/zero > /t/big || echo full"
    done = pe(*RUN, "--tmpfs", "/t:size=2m,mode=1770", "host:base", "sh", "-c", script)
    assert done.stdout.split() == ["1770", "2048", "full"]


def test_a_tmpfs_by_mount_takes_bytes(pe: Pe) -> None:
    flags = ("--mount", "type=tmpfs,target=/t,tmpfs-size=1048576,tmpfs-mode=0700")
    done = pe(*RUN, *flags, "host:base", "sh", "-c", "stat -c %a /t; df -k --output=size /t | tail -1", check=True)
    assert done.stdout.split() == ["700", "1024"]


@pytest.mark.parametrize(("flags", "kib"), [((), "65536"), (("--shm-size", "8m"), "8192")], ids=["default", "given"])
def test_shared_memory_has_its_size(pe: Pe, flags: tuple[str, ...], kib: str) -> None:
    done = pe(
        *RUN, *flags, "host:base", "sh", "-c", "df -k --output=size /dev/shm | tail -1; stat -c %a /dev/shm", check=True
    )
    assert done.stdout.split() == [kib, "1777"]


@pytest.mark.parametrize("storage", ["overlay", "fuse_union"])
def test_a_read_only_root_refuses_writes_but_not_in_mounts(pe: Pe, volume: str, storage: str) -> None:
    script = "for d in / /etc /usr/bin /tmp /v /dev/shm; do touch $d/file 2>/dev/null && echo $d; done; true"
    flags = ("--read-only", "--tmpfs", "/tmp", "-v", f"{volume}:/v", "--storage", storage)
    done = pe(*RUN, *flags, "host:base", "sh", "-c", script, check=True)
    assert done.stdout == "/tmp\n/v\n/dev/shm\n"


@pytest.mark.parametrize(
    ("flag", "value", "word"),
    [
        ("-v", "/tmp:relative", "relative"),
        ("-v", "/tmp:/b:wrong", "wrong"),
        ("-v", "sp ace:/b", "sp ace"),
        ("--mount", "type=bind,sorce=/tmp,target=/b", "sorce"),
        ("--mount", "type=nothing,target=/b", "nothing"),
        ("--tmpfs", "/t:colour=blue", "colour"),
        ("-v", "/tmp:/", "root"),
        ("-v", "/tmp:/proc/sys", "/proc/sys"),
    ],
)
def test_a_mount_that_can_not_be_is_refused_by_name(pe: Pe, flag: str, value: str, word: str) -> None:
    done = pe(*RUN, flag, value, "host:base", "true")
    assert done.returncode != 0
    assert word in done.stderr

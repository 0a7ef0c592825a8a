"""Who the command is: users, groups, and user namespaces as the files' owners on disk show them."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system.conftest import Start
from tests.waiting import PATIENCE_S

NONE = ("--net", "none")
RUN = ("run", "--rm", *NONE)
PASSWD = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001:Alice:/home/alice:/bin/sh\n"
GROUP = "root:x:0:\nalice:x:1001:\naudio:x:29:alice,bob\nvideo:x:44:\n"


def add_file(tar: tarfile.TarFile, name: str, data: bytes = b"", **attributes: object) -> None:
    """Add a member, a regular file unless the attributes say otherwise."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    for key, value in attributes.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def accounts(pe_env: Pe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image with accounts of its own: those of host:base and a layer of /etc on top, by way of `pe import`."""
    path = tmp_path_factory.mktemp("image") / "root.tar"
    exported = pe_env.popen(
        "run", "--rm", *NONE, "-v", f"{path.parent}:/out", "host:base", "tar", "-C", "/", "--one-file-system",
        "--exclude=./out", "--exclude=./etc/passwd", "--exclude=./etc/group", "-cf", f"/out/{path.name}", ".",
    )  # fmt: skip
    assert exported.wait(timeout=PATIENCE_S) == 0
    with tarfile.open(path, "a") as tar:
        add_file(tar, "etc/passwd", PASSWD.encode())
        add_file(tar, "etc/group", GROUP.encode())
        add_file(tar, "data", type=tarfile.DIRTYPE, mode=0o755, uid=1000, gid=1001)
        add_file(tar, "data/hers", b"hers\n", uid=1000, gid=1001)
        add_file(tar, "data/set-id", b"#!", mode=0o6755, uid=1000, gid=1001)
    pe_env("import", str(path), "accounts:1", check=True)
    yield "accounts:1"
    pe_env("rmi", "-f", "accounts:1")


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        ((), "0:0:0:/root"),
        (("-u", "alice"), "1000:1001:1001 29:/home/alice"),
        (("-u", "1000"), "1000:1001:1001 29:/home/alice"),
        (("-u", "alice:video"), "1000:44:44:/home/alice"),
        (("-u", "alice:44"), "1000:44:44:/home/alice"),
        (("-u", "1000:"), "1000:1001:1001 29:/home/alice"),
        (("-u", "1234"), "1234:0:0:/"),
        (("-u", "1234:4321"), "1234:4321:4321:/"),
        (("-u", ":44"), "0:44:44:/root"),
        (("-u", "alice", "--group-add", "video", "--group-add", "777"), "1000:1001:1001 29 44 777:/home/alice"),
    ],
    ids=[
        "default",
        "name",
        "number with a name",
        "name and group",
        "name and gid",
        "number and a colon",
        "number",
        "numbers",
        "group",
        "added",
    ],
)
def test_user_and_groups_are_looked_up_in_the_images_own_files(
    pe: Pe, accounts: str, flags: tuple[str, ...], answer: str
) -> None:
    script = "echo $(id -u):$(id -g):$(id -G):$HOME"
    assert pe(*RUN, *flags, accounts, "sh", "-c", script, check=True).stdout.strip() == answer


@pytest.mark.parametrize("user", ["nosuch", "alice:nosuch", "4294967295", "4294967296", "-1", "99999999999999999999"])
def test_a_user_that_can_not_be_is_refused_by_name(pe: Pe, accounts: str, user: str) -> None:
    done = pe(*RUN, f"--user={user}", accounts, "id")
    assert done.returncode != 0
    assert done.stdout == ""
    assert user.rpartition(":")[2] in done.stderr


def test_a_user_that_is_not_root_has_no_capability(pe: Pe) -> None:
    status = pe(*RUN, "-u", "1000", "host:base", "cat", "/proc/self/status", check=True).stdout
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert f"{name}:\t0000000000000000" in status
    assert "CapBnd:\t00000000a80425fb" in status


# --- user namespaces ---------------------------------------------------------------------------------------


@pytest.fixture(params=["overlay", "fuse_union"])
def storage(request: pytest.FixtureRequest) -> str:
    """Each storage driver in turn: owners are mapped by all of them."""
    return str(request.param)


def test_ids_of_a_user_namespace_begin_at_a_range_of_its_own(pe: Pe, start: Start) -> None:
    maps = []
    for _ in range(2):
        name = start(*NONE, "--userns", "auto", "host:base", "sleep", "1000")
        inside, outside, size = pe("exec", name, "cat", "/proc/self/uid_map", check=True).stdout.split()
        assert inside == "0"
        assert int(size) == 65536
        assert int(outside) >= 65536
        pid = json.loads(pe("inspect", name, check=True).stdout)[0]["State"]["Pid"]
        assert os.stat(f"/proc/{pid}").st_uid == int(outside), "root inside is nobody in particular outside"
        maps.append(range(int(outside), int(outside) + int(size)))
    assert not set(maps[0]) & set(maps[1]), "two containers share no id"


def test_a_range_can_be_given(pe: Pe) -> None:
    done = pe(*RUN, "--userns", "300000:400000:1000", "host:base", "cat", "/proc/self/uid_map", "/proc/self/gid_map")
    assert [line.split() for line in done.stdout.splitlines()] == [["0", "300000", "1000"], ["0", "400000", "1000"]]


def test_files_of_the_image_keep_their_owners_inside(pe: Pe, accounts: str, storage: str) -> None:
    words = ("stat", "-c", "%n %u:%g %a", "/etc/passwd", "/data", "/data/hers", "/data/set-id")
    done = pe(*RUN, "--storage", storage, "--userns", "auto", accounts, *words, check=True)
    assert done.stdout.splitlines() == [
        "/etc/passwd 0:0 644",
        "/data 1000:1001 755",
        "/data/hers 1000:1001 644",
        "/data/set-id 1000:1001 6755",
    ]


def test_files_made_inside_belong_to_the_range_outside(pe: Pe, start: Start, accounts: str, storage: str) -> None:
    script = "touch /by-root; chown 1000:1001 /by-root; touch /tmp/by-root; echo more >> /data/hers; sleep 1000"
    name = start(*NONE, "--storage", storage, "--userns", "500000:600000:65536", accounts, "sh", "-c", script)
    pe("exec", name, "sh", "-c", "until grep -q more /data/hers; do sleep 0.02; done", check=True)
    shown = pe("exec", name, "stat", "-c", "%u:%g", "/by-root", "/data/hers", check=True).stdout
    assert shown == "1000:1001\n1000:1001\n"
    pid = json.loads(pe("inspect", name, check=True).stdout)[0]["State"]["Pid"]
    for path, owner in (
        ("by-root", (501000, 601001)),
        ("tmp/by-root", (500000, 600000)),
        ("data/hers", (501000, 601001)),
    ):
        found = Path(f"/proc/{pid}/root/{path}").stat()
        assert (found.st_uid, found.st_gid) == owner, path


def test_layers_of_the_image_stay_untouched_by_mapped_owners(pe: Pe, accounts: str, storage: str) -> None:
    layers = Path(pe.root / "layers")
    before = {path: path.lstat().st_uid for path in layers.rglob("*")}
    pe(
        *RUN,
        "--storage",
        storage,
        "--userns",
        "auto",
        accounts,
        "sh",
        "-c",
        "chown -R 7:7 /data; rm /etc/hostname",
        check=False,
    )
    assert {path: path.lstat().st_uid for path in layers.rglob("*")} == before


def test_volumes_are_written_with_the_owners_inside_and_shared_between_ranges(pe: Pe) -> None:
    try:
        write = "touch /v/of-root /v/of-nobody; chown 65534:65534 /v/of-nobody"
        pe(*RUN, "--userns", "auto", "-v", "mapped:/v", "host:base", "sh", "-c", write, check=True)
        look = ("stat", "-c", "%u:%g", "/v/of-root", "/v/of-nobody")
        other = pe(*RUN, "--userns", "700000:700000:65536", "-v", "mapped:/v", "host:base", *look, check=True)
        plain = pe(*RUN, "-v", "mapped:/v", "host:base", *look, check=True)
        assert other.stdout == plain.stdout == "0:0\n65534:65534\n"
        data = Path(json.loads(pe("volume", "inspect", "mapped", check=True).stdout)[0]["Mountpoint"])
        assert (data / "of-root").stat().st_uid == 0
    finally:
        pe("volume", "rm", "mapped")


def test_a_bind_mount_shows_the_hosts_owners_as_nobody(pe: Pe, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("hosts")
    words = ("sh", "-c", "stat -c %u /b/file; echo x > /b/file || echo refused")
    done = pe(*RUN, "--userns", "auto", "-v", f"{tmp_path}:/b", "host:base", *words, check=True)
    assert done.stdout == "65534\nrefused\n"
    assert (tmp_path / "file").read_text() == "hosts"


def test_root_of_a_user_namespace_has_no_power_outside(pe: Pe) -> None:
    words = ("mount -t tmpfs x /mnt", "mknod /tmp/n b 8 0", "echo 1 > /proc/sys/kernel/panic", "date -s 2030-01-01")
    script = "; ".join([*words, "hostname other", "true"])
    before = os.uname().nodename
    done = pe(*RUN, "--userns", "auto", "host:base", "sh", "-c", script)
    assert len([line for line in done.stderr.splitlines() if line]) >= 5, done.stderr
    assert os.uname().nodename == before


def test_dev_and_terminal_work_in_a_user_namespace(pe: Pe) -> None:
    script = "echo x > /dev/null; head -c 4 /dev/urandom | wc -c; ls /dev/pts; test -c /dev/full && echo full"
    assert pe(*RUN, "--userns", "auto", "host:base", "sh", "-c", script, check=True).stdout == "4\nptmx\nfull\n"


def test_exec_enters_the_user_namespace_too(pe: Pe, start: Start) -> None:
    name = start(*NONE, "--userns", "auto", "host:base", "sleep", "1000")
    done = pe("exec", "-u", "1000:1000", name, "sh", "-c", "id -u; touch /tmp/f; stat -c %u /tmp/f", check=True)
    assert done.stdout == "1000\n1000\n"
    assert (
        pe("exec", name, "sh", "-c", "readlink /proc/1/ns/user", check=True).stdout
        != os.readlink("/proc/self/ns/user") + "\n"
    )


# --- a driver that cannot show mapped owners ---------------------------------------------------------------

COPYING_DRIVER = '''
"""Storage by `cp -a`: every container has a copy of the lowest layer; knows nothing of user namespaces."""
import os
import subprocess

from plugengine import API_VERSION, DriverInfo, Mount, Rootfs, Usage, hookimpl


@hookimpl
def pe_storage_info():
    return DriverInfo(api_version=API_VERSION, summary="a copy for each container")


@hookimpl
def pe_storage_probe(host):
    return []


@hookimpl
def pe_storage_prepare(request):
    subprocess.run(["cp", "-a", f"{request.chain[0]}/.", f"{request.directory}/tree"], check=True)
    return {}


@hookimpl
def pe_storage_mounts(request, record):
    return Rootfs(mounts=(Mount(fstype="bind", source=f"{request.directory}/tree", target=request.target),))


@hookimpl
def pe_storage_usage(request, record):
    return Usage(size_bytes=0, inodes=0)


@hookimpl
def pe_storage_remove(request, record):
    subprocess.run(["rm", "-rf", f"{request.directory}/tree"], check=True)
'''


@pytest.fixture
def copying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install a driver of somebody else's, as pip would, where PYTHONPATH leads."""
    (tmp_path / "copying_storage.py").write_text(COPYING_DRIVER)
    info = tmp_path / "copying_storage-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: copying-storage\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text("[plugengine.storage]\ncopying = copying_storage\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "copying"


def test_owners_are_changed_once_for_a_driver_that_cannot_map_them(pe: Pe, accounts: str, copying: str) -> None:
    words = ("run", "--storage", copying, "--userns", "500000:600000:65536", *NONE, "--name", "shifted", accounts)
    look = "stat -c '%n %u:%g %a' /data/hers /data/set-id /etc/passwd; touch /new; id -u"
    lines = ["/data/hers 1000:1001 644", "/data/set-id 1000:1001 6755", "/etc/passwd 0:0 644", "0"]
    first = pe(*words, "sh", "-c", look)
    try:
        assert first.stderr == ""
        assert first.stdout.splitlines() == lines
        second = pe("start", "-a", "shifted", check=True)
        assert second.stdout.splitlines() == lines, "not a second time"
        container = json.loads(pe("inspect", "shifted", check=True).stdout)[0]["Id"]
        found = list((pe.root / "containers" / container).rglob("tree/data/hers"))
        assert [(path.stat().st_uid, path.stat().st_gid) for path in found] == [(501000, 601001)]
    finally:
        pe("rm", "-f", "shifted")


def test_a_driver_of_somebody_else_is_listed_with_its_distribution(pe: Pe, copying: str) -> None:
    rows = [json.loads(line) for line in pe("drivers", "--format", "json", check=True).stdout.splitlines()]
    row = next(row for row in rows if row["Name"] == copying)
    assert (row["Kind"], row["Distribution"], row["Version"]) == ("storage", "copying-storage", "2.5")
    assert pe(*RUN, "--storage", copying, "host:base", "echo", "hello", check=True).stdout == "hello\n"


def test_ids_another_container_has_are_refused(pe: Pe) -> None:
    pe("create", *NONE, "--name", "first", "--userns", "700000:800000:1000", "host:base", "true", check=True)
    try:
        refused = pe("create", *NONE, "--name", "second", "--userns", "800999:900000:10", "host:base", "true")
        assert refused.returncode == 125
        assert "container first has 800000 to 800999" in refused.stderr
        assert pe("ps", "-a", "--format", "{{.Names}}", check=True).stdout == "first\n"
    finally:
        pe("rm", "first", check=True)
    pe(*RUN, "--userns", "800999:900000:10", "host:base", "true", check=True)

"""What is peculiar to the overlay driver, on the real kernel."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import plugengine_overlay as driver
import pytest
from plugengine_overlay import support, writable

from plugengine.errors import DriverError
from plugengine.kernel import mount as kernel_mount
from plugengine.model import Host, HostPath, IdRange, StorageRequest, UserMap
from tests.conftest import need
from tests.drivers.filesystems import Store
from tests.drivers.overlay.conftest import InChild, changes, mount

MAPPED = UserMap(
    uids=(IdRange(guest=0, host=100_000, size=65_536),), gids=(IdRange(guest=0, host=200_000, size=65_536),)
)


def names(path: str | Path) -> list[str]:
    return sorted(os.listdir(path))


def test_layers_are_merged_and_only_the_upper_directory_is_written(store: Store, in_mount_namespace: InChild) -> None:
    low = store.layer("low", {"a": "low", "b": "low", "d/x": "low"})
    high = store.layer("high", {"a": "high", "d/y": "high"})
    request = store.request(low, high)
    record = driver.pe_storage_prepare(request)

    def work() -> None:
        root = mount(request, record)
        assert (root / "a").read_text() == "high"
        assert (root / "b").read_text() == "low"
        assert names(root / "d") == ["x", "y"]
        (root / "a").write_text("mine")
        (root / "b").unlink()
        (root / "new").touch()

    in_mount_namespace(work)
    assert Path(high, "a").read_text() == "high"
    assert Path(low, "b").read_text() == "low"
    assert changes(request, record) == ["C /a", "D /b", "A /new"]
    assert names(driver.pe_storage_upper(request, record).directory) == ["a", "b", "new"]
    assert driver.pe_storage_usage(request, record).inodes == 3


@pytest.mark.parametrize("count", [0, 1, 2, 120, 400])
def test_any_number_of_layers_can_be_mounted(store: Store, in_mount_namespace: InChild, count: int) -> None:
    chain = [store.layer(f"{number:064}", {f"f{number}": "x"}) for number in range(count)]
    request = store.request(*chain)
    record = driver.pe_storage_prepare(request)

    def work() -> list[str]:
        root = mount(request, record)
        (root / "new").write_text("x")
        return names(root)

    assert in_mount_namespace(work) == sorted(["new", *(f"f{number}" for number in range(count))])


@pytest.mark.parametrize("count", [1, 30, 120])
def test_a_kernel_that_takes_all_names_in_one_page_can_mount_them_too(
    store: Store, in_mount_namespace: InChild, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(support, "appends_layers", lambda: False)
    chain = [store.layer(f"{number:064}", {"f": f"{number}"}) for number in range(count)]
    request = store.request(*chain)
    record = driver.pe_storage_prepare(request)
    here = os.getcwd()

    def work() -> list[str]:
        root = mount(request, record)
        (root / "new").write_text("x")
        return [(root / "f").read_text(), os.getcwd()]

    assert in_mount_namespace(work) == [str(count - 1), here]
    driver.pe_storage_remove(request, record)
    assert os.listdir(request.directory) == []
    assert Path(chain[0], "f").read_text() == "0"


@pytest.mark.parametrize("appends", [True, False])
@pytest.mark.parametrize("name", ["a:b", "a,b", "a\\b", "a b", "ä", "a=b", "a\"b'", "\\,:"])
def test_a_root_with_any_name_works(
    tmp_path: Path, in_mount_namespace: InChild, monkeypatch: pytest.MonkeyPatch, name: str, appends: bool
) -> None:
    if not appends:
        monkeypatch.setattr(support, "appends_layers", lambda: False)
    store = Store(tmp_path / name, "overlay")
    request = store.request(store.layer("l:1,x", {"f": "1"}), store.layer("l\\2", {"g": "2"}))
    record = driver.pe_storage_prepare(request)

    def work() -> list[str]:
        root = mount(request, record)
        (root / "new").touch()
        return names(root)

    assert in_mount_namespace(work) == ["f", "g", "new"]
    assert names(driver.pe_storage_upper(request, record).directory) == ["new"]


def test_a_layer_that_comes_twice_in_a_chain_is_no_problem(store: Store, in_mount_namespace: InChild) -> None:
    """Real images repeat their empty layer."""
    empty, one, two = store.layer("empty"), store.layer("one", {"f": "1"}), store.layer("two", {"f": "2"})
    request = store.request(empty, one, empty, two, one, empty)
    record = driver.pe_storage_prepare(request)

    def work() -> str:
        root = mount(request, record)
        (root / "f").chmod(0o600)
        return (root / "f").read_text()

    assert in_mount_namespace(work) == "1"
    assert changes(request, record) == ["C /f"]


def test_the_root_directory_looks_like_the_images(store: Store, in_mount_namespace: InChild) -> None:
    low, high = store.layer("low"), store.layer("high")
    os.chmod(high, 0o1711)
    os.chown(high, 7, 8)
    os.setxattr(high, "user.x", b"1")
    request = store.request(low, high)
    record = driver.pe_storage_prepare(request)

    def work() -> None:
        root = mount(request, record)
        found = os.stat(root)
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o1711, 7, 8)
        assert os.getxattr(root, "user.x") == b"1"

    in_mount_namespace(work)


def test_without_layers_the_root_directory_can_be_entered_by_everybody(store: Store) -> None:
    request = store.request()
    record = driver.pe_storage_prepare(request)
    assert stat.S_IMODE(os.stat(driver.pe_storage_upper(request, record).directory).st_mode) == 0o755


def test_what_was_written_is_there_after_another_mount(store: Store, in_mount_namespace: InChild) -> None:
    request = store.request(store.layer("l", {"a": "1", "d/x": "1"}))
    record = driver.pe_storage_prepare(request)

    def first() -> None:
        root = mount(request, record)
        (root / "a").write_text("2")
        (root / "d/x").unlink()
        (root / "d").rmdir()
        (root / "d").mkdir()

    def second() -> None:
        root = mount(request, record)
        assert (root / "a").read_text() == "2"
        assert names(root / "d") == []

    in_mount_namespace(first)
    in_mount_namespace(second)


@pytest.mark.parametrize("options", [{}, {"volatile": "on"}, {"index": "on", "redirect_dir": "on", "metacopy": "on"}])
def test_it_mounts_again_and_again_also_after_a_kill(
    store: Store, in_mount_namespace: InChild, options: dict[str, str]
) -> None:
    """A namespace that ends takes its mounts along; `volatile` then leaves a mark that forbids the next mount."""
    request = store.request(store.layer("l", {"a": "1"}), options=options)
    record = driver.pe_storage_prepare(request)
    for number in range(3):

        def work(number: int = number) -> list[str]:
            root = mount(request, record)
            (root / f"{number}").touch()
            return names(root)

        assert in_mount_namespace(work) == sorted(["a", *map(str, range(number + 1))])


def test_a_read_only_root_cannot_be_written(store: Store, in_mount_namespace: InChild) -> None:
    request = store.request(store.layer("l", {"a": "1"}), read_only=True)
    record = driver.pe_storage_prepare(request)

    def work() -> int | None:
        root = mount(request, record)
        try:
            (root / "b").touch()
        except OSError as exc:
            return exc.errno
        return None

    assert in_mount_namespace(work) == errno.EROFS


def test_containers_of_one_image_do_not_see_each_other(store: Store, in_mount_namespace: InChild) -> None:
    layer = store.layer("l", {"a": "1"})
    requests = [store.request(layer, name=name) for name in ("c1", "c2")]
    records = [driver.pe_storage_prepare(request) for request in requests]

    def work() -> list[list[str]]:
        roots = [mount(*pair) for pair in zip(requests, records, strict=True)]
        (roots[0] / "mine").touch()
        (roots[1] / "a").unlink()
        return [names(root) for root in roots]

    assert in_mount_namespace(work) == [["a", "mine"], []]


def test_an_image_cannot_steer_the_filesystem(store: Store, in_mount_namespace: InChild) -> None:
    """A layer whose directory claims to have been renamed from another one does not get that one's content."""
    low, high = store.layer("low", {"secret/key": "x"}), store.layer("high")
    os.mkdir(f"{high}/d")
    os.setxattr(f"{high}/d", "trusted.overlay.redirect", b"/secret")
    request = store.request(low, high)
    record = driver.pe_storage_prepare(request)

    def work() -> list[str]:
        try:
            return names(mount(request, record) / "d")
        except OSError as exc:
            return [os.strerror(exc.errno or 0)]

    assert in_mount_namespace(work) in ([], ["Operation not permitted"])


# --- user maps ---------------------------------------------------------------------------------------------


def mapped_request(store: Store) -> StorageRequest:
    layer = store.layer("l", {"root": "1", "user": "1"})
    os.chown(f"{layer}/user", 1000, 1001)
    os.chmod(f"{layer}/user", 0o4755)
    return store.request(layer, store.layer("m", {"d/x": "1"}), user_map=MAPPED)


def look_at_owners(request: StorageRequest, record: object) -> list[list[int]]:
    root = mount(request, record)  # type: ignore[arg-type]
    (root / "user").write_text("changed")
    os.chmod(root / "root", 0o600)
    found = [os.stat(root / name) for name in (".", "root", "user", "d", "d/x")]
    return [[info.st_uid, info.st_gid] for info in found]


OWNERS = [[100_000, 200_000], [100_000, 200_000], [101_000, 201_001], [100_000, 200_000], [100_000, 200_000]]


def test_owners_are_mapped_by_a_mount_and_no_layer_is_copied(store: Store, in_mount_namespace: InChild) -> None:
    request = mapped_request(store)
    record = driver.pe_storage_prepare(request)
    need(None if record["owners"] == writable.MAPPED_MOUNT else "overlayfs takes no id-mapped layers here")
    assert in_mount_namespace(lambda: look_at_owners(request, record)) == OWNERS
    assert os.stat(f"{request.chain[0]}/root").st_uid == 0
    assert changes(request, record) == ["C /root", "C /user"]
    assert driver.pe_storage_usage(request, record).inodes == 2
    driver.pe_storage_remove(request, record)
    assert os.listdir(request.directory) == []
    assert Path(request.chain[0], "user").read_text() == "1"


def test_where_a_mount_cannot_map_owners_the_layers_are_copied(
    store: Store, in_mount_namespace: InChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "maps_owners", lambda *_: False)
    request = mapped_request(store)
    os.mknod(f"{request.chain[1]}/root", stat.S_IFCHR, 0)
    record = driver.pe_storage_prepare(request)
    assert record["owners"] == writable.MAPPED_COPY

    def work() -> list[str]:
        root = mount(request, record)
        assert os.stat(root / "user").st_uid == 101_000
        assert stat.S_IMODE(os.stat(root / "user").st_mode) == 0o4755
        return names(root)

    assert in_mount_namespace(work) == ["d", "user"]
    assert os.stat(f"{request.chain[0]}/user").st_uid == 1000
    driver.pe_storage_remove(request, record)
    assert os.listdir(request.directory) == []


def test_mapped_layers_on_a_filesystem_without_maps_are_noticed(store: Store, in_mount_namespace: InChild) -> None:
    """The probe does it: an overlay as the layers' filesystem does not know id-mapped mounts."""

    def work() -> list[object]:
        base = store.base / "nested"
        for name in ("low", "upper", "work", "merged"):
            (base / name).mkdir(parents=True)
        data = f"lowerdir={base}/low,upperdir={base}/upper,workdir={base}/work"
        kernel_mount.mount("overlay", str(base / "merged"), "overlay", 0, data)
        directory = HostPath(str(base / "merged" / "c"))
        for name in ("upper", "empty"):
            os.makedirs(f"{directory}/{name}")
        before = len(os.listdir("/proc/self/fd"))
        found = support.maps_owners(directory, directory, MAPPED)
        return [found, len(os.listdir("/proc/self/fd")) - before]

    assert in_mount_namespace(work) == [False, 0]


# --- making and unmaking -----------------------------------------------------------------------------------


def test_preparing_twice_and_removing_twice_is_fine(store: Store) -> None:
    request = store.request(store.layer("l", {"a": "1"}))
    assert driver.pe_storage_prepare(request) == driver.pe_storage_prepare(request)
    driver.pe_storage_remove(request, None)
    driver.pe_storage_remove(request, {"owners": "plain"})
    assert os.listdir(request.directory) == []
    os.rmdir(request.directory)
    driver.pe_storage_remove(request, None)


@pytest.mark.parametrize("user_map", [None, MAPPED], ids=["plain", "mapped"])
def test_a_failure_leaves_nothing_and_names_what_is_missing(store: Store, user_map: UserMap | None) -> None:
    request = store.request(HostPath(f"{store.base}/layers/missing"), user_map=user_map)
    with pytest.raises(DriverError, match="layers/missing: no such file"):
        driver.pe_storage_prepare(request)
    assert os.listdir(request.directory) == []


def test_removal_copes_with_what_a_container_left(store: Store, in_mount_namespace: InChild) -> None:
    request = store.request(store.layer("l", {"a": "1"}))
    record = driver.pe_storage_prepare(request)

    def work() -> None:
        root = mount(request, record)
        (root / "d").mkdir(mode=0)
        os.mkfifo(root / "fifo")
        (root / "l").symlink_to("/")

    in_mount_namespace(work)
    driver.pe_storage_remove(request, record)
    assert os.listdir(request.directory) == []


# --- probing -----------------------------------------------------------------------------------------------


def host(root: Path | str) -> Host:
    return Host(root=HostPath(str(root)), run_root=HostPath("/nonexistent"), kernel=(6, 1))


def test_a_usual_root_is_supported_also_before_it_exists(tmp_path: Path) -> None:
    assert driver.pe_storage_probe(host(tmp_path)) == []
    assert driver.pe_storage_probe(host(tmp_path / "not" / "yet")) == []
    assert os.listdir(tmp_path) == []


def test_probing_a_usual_root_is_quick(tmp_path: Path) -> None:
    driver.pe_storage_probe(host(tmp_path))
    best = min(_seconds(lambda: driver.pe_storage_probe(host(tmp_path))) for _ in range(20))
    assert best < 0.001


def _seconds(call: object) -> float:
    began = time.process_time()
    call()  # type: ignore[operator]
    return time.process_time() - began


@pytest.mark.parametrize("kind", ["ramfs", "overlay"])
def test_an_unusual_root_is_tried(tmp_path: Path, in_mount_namespace: InChild, kind: str) -> None:
    """What the probe says is what a mount then does, and it leaves nothing behind."""

    def work() -> list[object]:
        place = tmp_path / "place"
        place.mkdir()
        if kind == "ramfs":
            kernel_mount.mount("none", str(place), "ramfs")
        else:
            for name in ("low", "upper", "work"):
                (tmp_path / name).mkdir()
            data = f"lowerdir={tmp_path}/low,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
            kernel_mount.mount("overlay", str(place), "overlay", 0, data)
        reasons = driver.pe_storage_probe(host(place))
        left = names(place)
        store = Store(place / "store", "overlay")
        request = store.request(store.layer("l", {"d/x": "1"}))
        record = driver.pe_storage_prepare(request)
        try:
            root = mount(request, record)
            (root / "d/x").unlink()
            (root / "d").rmdir()
            (root / "d").mkdir()
            works = names(root / "d") == []
        except (OSError, DriverError):
            works = False
        return [reasons, works, left]

    reasons, works, left = in_mount_namespace(work)
    assert (reasons == []) == works
    assert left == []
    for reason in reasons:
        assert "--root" in reason


def test_without_privilege_the_reason_is_said(tmp_path: Path, in_mount_namespace: InChild) -> None:
    def work() -> list[str]:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        return driver.pe_storage_probe(host("/"))

    assert in_mount_namespace(work) == ["mounting needs CAP_SYS_ADMIN: run as root"]


def test_what_the_driver_says_of_itself_is_true() -> None:
    info = driver.pe_storage_info()
    assert {capability.value for capability in info.capabilities} == {"native-diff", "user-map"}
    assert info.rank == 100

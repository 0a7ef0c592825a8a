"""Filesystems are mounted, moved, changed and shifted by descriptor; a refusal carries the kernel's reason."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from plugengine.kernel import mount
from plugengine.kernel.files import AT_FDCWD, AT_RECURSIVE, TMPFS_MAGIC, fstatfs_type
from plugengine.kernel.mountinfo import read_mountinfo
from plugengine.kernel.process import CLONE_NEWUSER, clone3
from tests.system.kernel.conftest import InChild


def tmpfs() -> int:
    """Return a detached tmpfs."""
    context = mount.fsopen("tmpfs")
    mount.fsconfig_set_string(context, "size", "1m")
    mount.fsconfig_create(context)
    tree = mount.fsmount(context)
    os.close(context)
    return tree


def error_of(function: object, *args: object, **kwargs: object) -> list[object]:
    assert callable(function)
    try:
        function(*args, **kwargs)
    except OSError as exc:
        return [exc.errno, exc.strerror, exc.filename]
    return []


def test_a_mount_appears_with_its_options_and_goes(tmp_path: Path, in_mount_namespace: InChild) -> None:
    point = tmp_path / "a b"
    point.mkdir()

    def run() -> list[object]:
        mount.mount("source", str(point), "tmpfs", mount.MS_NOSUID | mount.MS_NODEV, "size=4096,mode=711")
        (entry,) = [entry for entry in read_mountinfo() if entry.mount_point == str(point)]
        mount.umount2(str(point))
        after = [entry for entry in read_mountinfo() if entry.mount_point == str(point)]
        return [entry.fstype, entry.source, {"nosuid", "nodev"} <= set(entry.options), *entry.super_options, after]

    fstype, source, safe, *options, after = in_mount_namespace(run)
    assert (fstype, source, safe, after) == ("tmpfs", "source", True, [])
    assert {"size=4k", "mode=711"} <= set(options)


def test_unmounting_what_is_no_mount_names_it(tmp_path: Path) -> None:
    assert error_of(mount.umount2, str(tmp_path)) == [errno.EINVAL, "Invalid argument", str(tmp_path)]


def test_data_the_kernel_would_cut_is_refused(tmp_path: Path) -> None:
    (code, words, name) = error_of(mount.mount, "x", str(tmp_path), "tmpfs", 0, "size=1m," * 600)
    assert (code, name) == (errno.E2BIG, str(tmp_path))
    assert "longer than a page" in str(words)


def test_a_detached_mount_is_used_before_it_is_attached(in_mount_namespace: InChild) -> None:
    def run() -> list[object]:
        tree = tmpfs()
        os.mkdir("inside", dir_fd=tree)
        return [fstatfs_type(tree) == TMPFS_MAGIC, os.stat("inside", dir_fd=tree).st_nlink]

    assert in_mount_namespace(run) == [True, 2]


def test_a_mount_goes_onto_the_object_a_descriptor_names_not_onto_its_path(
    tmp_path: Path, in_mount_namespace: InChild
) -> None:
    (tmp_path / "target").mkdir()

    def run() -> list[list[str]]:
        target = os.open(tmp_path / "target", os.O_PATH)
        (tmp_path / "target").rename(tmp_path / "moved")
        (tmp_path / "target").mkdir()
        tree = tmpfs()
        os.mkdir("inside", dir_fd=tree)
        mount.move_mount(tree, to_dirfd=target)
        return [os.listdir(tmp_path / "moved"), os.listdir(tmp_path / "target")]

    assert in_mount_namespace(run) == [["inside"], []]


def test_an_option_the_filesystem_does_not_know_comes_with_its_words() -> None:
    context = mount.fsopen("overlay")
    code, words, name = error_of(mount.fsconfig_set_flag, context, "nonsense")
    os.close(context)
    assert (code, name) == (errno.EINVAL, "nonsense")
    assert words == "Invalid argument (overlay: Unknown parameter 'nonsense')"


def test_a_value_the_filesystem_does_not_like_is_named_with_its_option() -> None:
    context = mount.fsopen("overlay")
    code, words, name = error_of(mount.fsconfig_set_string, context, "index", "maybe")
    os.close(context)
    assert (code, name) == (errno.EINVAL, "index=maybe")
    assert words == "Invalid argument (overlay: Bad value for 'index')"


def test_a_refused_superblock_comes_with_the_words_of_its_context() -> None:
    context = mount.fsopen("ext4")
    mount.fsconfig_set_string(context, "source", "/dev/null")
    code, words, name = error_of(mount.fsconfig_create, context)
    os.close(context)
    assert (code, name) == (errno.ENOTBLK, "superblock")
    assert "/dev/null: Can't lookup blockdev" in str(words)


def test_an_unknown_filesystem_is_named() -> None:
    assert error_of(mount.fsopen, "nosuchfs") == [errno.ENODEV, "No such device", "nosuchfs"]


def test_options_are_given_as_path_and_the_overlay_shows_its_layers(
    tmp_path: Path, in_mount_namespace: InChild
) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/file").write_text("from below")

    def run() -> list[str]:
        context = mount.fsopen("overlay")
        mount.fsconfig_set_string(context, "source", "plug")
        for key, name in (("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")):
            mount.fsconfig_set_string(context, key, str(tmp_path / name))
        mount.fsconfig_create(context)
        tree = mount.fsmount(context, attr_flags=mount.MOUNT_ATTR_NODEV)
        mount.move_mount(tree, to_path=str(tmp_path / "merged"))
        merged = tmp_path / "merged/file"
        below = merged.read_text()
        merged.write_text("from above")
        (entry,) = [entry for entry in read_mountinfo() if entry.mount_point == str(tmp_path / "merged")]
        return [below, (tmp_path / "upper/file").read_text(), entry.source, str("nodev" in entry.options)]

    assert in_mount_namespace(run) == ["from below", "from above", "plug", "True"]


def test_a_recursive_clone_is_made_read_only_to_its_leaves(tmp_path: Path, in_mount_namespace: InChild) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source).mkdir()
    target.mkdir()

    def run() -> list[object]:
        mount.mount("outer", str(source), "tmpfs")
        (source / "inner").mkdir()
        mount.mount("inner", str(source / "inner"), "tmpfs")
        tree = mount.open_tree(AT_FDCWD, str(source), mount.OPEN_TREE_CLONE | mount.OPEN_TREE_CLOEXEC | AT_RECURSIVE)
        mount.mount_setattr(tree, flags=AT_RECURSIVE, attr_set=mount.MOUNT_ATTR_RDONLY)
        mount.move_mount(tree, to_path=str(target))
        refused = [error_of((target / name).touch)[0] for name in ("x", "inner/x")]
        (source / "inner/x").touch()
        return [*refused, os.path.exists(target / "inner/x")]

    assert in_mount_namespace(run) == [errno.EROFS, errno.EROFS, True]


def test_attributes_are_cleared_and_access_times_changed(tmp_path: Path, in_mount_namespace: InChild) -> None:
    def run() -> list[list[str]]:
        mount.mount("x", str(tmp_path), "tmpfs", mount.MS_RDONLY)
        seen = []
        for change in (
            {"attr_clr": mount.MOUNT_ATTR_RDONLY, "attr_set": mount.MOUNT_ATTR_NOEXEC},
            {"attr_clr": mount.MOUNT_ATTR__ATIME, "attr_set": mount.MOUNT_ATTR_NOATIME},
        ):
            mount.mount_setattr(AT_FDCWD, str(tmp_path), **change)
            seen += [list(entry.options) for entry in read_mountinfo() if entry.mount_point == str(tmp_path)]
        return seen

    assert in_mount_namespace(run) == [["rw", "noexec", "relatime"], ["rw", "noexec", "noatime"]]


def test_propagation_is_set_and_shown(tmp_path: Path, in_mount_namespace: InChild) -> None:
    def run() -> list[list[str]]:
        mount.mount("x", str(tmp_path), "tmpfs")
        seen = []
        for propagation in (mount.MS_SHARED, mount.MS_PRIVATE, mount.MS_UNBINDABLE):
            mount.mount_setattr(AT_FDCWD, str(tmp_path), propagation=propagation)
            (entry,) = [entry for entry in read_mountinfo() if entry.mount_point == str(tmp_path)]
            seen.append([field.partition(":")[0] for field in entry.propagation])
        return seen

    assert in_mount_namespace(run) == [["shared"], [], ["unbindable"]]


def test_a_reconfigured_filesystem_is_read_only_everywhere(tmp_path: Path, in_mount_namespace: InChild) -> None:
    def run() -> object:
        mount.mount("x", str(tmp_path), "tmpfs")
        context = mount.fspick(AT_FDCWD, str(tmp_path))
        mount.fsconfig_set_flag(context, "ro")
        mount.fsconfig_reconfigure(context)
        return error_of((tmp_path / "x").touch)[0]

    assert in_mount_namespace(run) == errno.EROFS


def user_namespace(first_id: int) -> int:
    """Return a user namespace that maps its ids from 0 on to `first_id` and up."""
    silent, writer = os.pipe()
    pid, pidfd = clone3(CLONE_NEWUSER)
    if pid == 0:
        os.close(writer)
        os.read(silent, 1)
        os._exit(0)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text(f"0 {first_id} 65536")
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    os.close(silent)
    os.close(writer)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    return namespace


def test_a_mount_can_shift_the_owners_of_its_files(tmp_path: Path, in_mount_namespace: InChild) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").touch()

    def run() -> list[object]:
        tree = mount.open_tree(AT_FDCWD, str(source), mount.OPEN_TREE_CLONE | mount.OPEN_TREE_CLOEXEC)
        mount.mount_setattr(tree, attr_set=mount.MOUNT_ATTR_IDMAP, userns_fd=user_namespace(100_000))
        mount.move_mount(tree, to_path=str(target))
        shown = (target / "file").stat()
        # Host root is not among the ids the mount maps, so what it makes would have no owner.
        return [shown.st_uid, shown.st_gid, error_of(os.mkdir, target / "made")[0]]

    assert in_mount_namespace(run) == [100_000, 100_000, errno.EOVERFLOW]


def test_pivoting_onto_itself_leaves_only_the_new_root(tmp_path: Path, in_mount_namespace: InChild) -> None:
    def run() -> list[object]:
        mount.mount("new", str(tmp_path), "tmpfs")
        (tmp_path / "inside").mkdir()
        os.chdir(tmp_path)
        mount.pivot_root(".", ".")
        mount.umount2(".", mount.MNT_DETACH)
        os.chdir("/")
        return [os.listdir("/"), os.getcwd()]

    assert in_mount_namespace(run) == [["inside"], "/"]


def test_a_refused_pivot_names_the_new_root(tmp_path: Path, in_mount_namespace: InChild) -> None:
    def run() -> list[object]:
        return error_of(mount.pivot_root, str(tmp_path), str(tmp_path))

    assert in_mount_namespace(run) == [errno.EBUSY, "Device or resource busy", str(tmp_path)]

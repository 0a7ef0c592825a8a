"""What an upper directory changes: a table of cases, and the kernel's overlayfs as the judge."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from plugengine.kernel import mount
from plugengine.model import HostPath, IdRange, UserMap
from plugengine.trees import upper
from tests.system.trees.conftest import InChild, Make


def found(directory: HostPath, *chain: HostPath) -> list[str]:
    return [f"{change.kind} {change.path}" for change in upper.changes(directory, chain)]


CASES: dict[str, tuple[list[list[str]], list[str], list[str]]] = {
    "nothing": ([["a"]], [], []),
    "no layers": ([], ["a", "d/", "d/b"], ["A /a", "A /d", "A /d/b"]),
    "added": ([["a"]], ["b"], ["A /b"]),
    "changed": ([["a"]], ["a=x"], ["C /a"]),
    "deleted": ([["a"]], ["-a"], ["D /a"]),
    "whiteout of nothing": ([["a"]], ["-b"], []),
    "whiteout of what a layer deleted": ([["a"], ["-a"]], ["-a"], []),
    "new where a layer deleted": ([["a"], ["-a"]], ["a"], ["A /a"]),
    "directory copied up, nothing in it": ([["d/", "d/a"]], ["d/"], []),
    "change inside names the directory above": (
        [["d/", "d/e/", "d/e/a"]],
        ["d/", "d/e/", "d/e/a"],
        ["C /d", "C /d/e", "C /d/e/a"],
    ),
    "deletion inside": ([["d/", "d/a", "d/b"]], ["d/", "-d/a"], ["C /d", "D /d/a"]),
    "file becomes directory": ([["a"]], ["a/", "a/b"], ["C /a", "A /a/b"]),
    "directory becomes file": ([["a/", "a/b"]], ["a"], ["C /a"]),
    "symlink becomes file": ([["a>b"]], ["a"], ["C /a"]),
    "replaced directory": ([["d/", "d/a", "d/b"]], ["d/!", "d/a", "d/c"], ["D /d/b", "C /d/a", "A /d/c"]),
    "layers add up": ([["d/", "d/a"], ["d/", "d/b"]], ["d/", "d/a", "-d/b"], ["C /d", "C /d/a", "D /d/b"]),
    "an opaque layer hides": ([["d/", "d/a"], ["d/!", "d/b"]], ["d/", "d/a", "d/b"], ["C /d", "A /d/a", "C /d/b"]),
    "a file in a layer hides": ([["d/", "d/a"], ["d"], ["-d"], ["d/"]], ["d/", "d/a"], ["C /d", "A /d/a"]),
    "a symlink to a directory is no directory": ([["d/", "d/a", "l>d"]], ["l/", "l/a"], ["C /l", "A /l/a"]),
}


@pytest.mark.parametrize("case", CASES)
def test_changes_are_what_the_table_says(make: Make, case: str) -> None:
    layers, entries, expected = CASES[case]
    chain = [make(f"layer{number}", entries) for number, entries in enumerate(layers)]
    changes = found(make("upper", entries), *chain)
    # An opaque directory is a change of its own when it was made anew with other times.
    assert [line for line in changes if not (case == "replaced directory" and line == "C /d")] == expected


@pytest.mark.parametrize("difference", ["mode", "owner", "time", "attribute"])
def test_a_directory_with_other_metadata_is_a_change(make: Make, difference: str) -> None:
    layer, changed = make("layer", ["d/"]), make("upper", ["d/"])
    path = f"{changed}/d"
    if difference == "mode":
        os.chmod(path, 0o700)
    elif difference == "owner":
        os.chown(path, 5, 0)
    elif difference == "time":
        os.utime(path, (1000, 1001))
    else:
        os.setxattr(path, "user.x", b"1")
    assert found(changed, layer) == ["C /d"]


def test_mapped_owners_are_no_change(make: Make) -> None:
    layer, changed = make("layer", ["d/"]), make("upper", ["d/"])
    os.chown(f"{layer}/d", 3, 4)
    os.chown(f"{changed}/d", 100_003, 200_004)
    ranges = (IdRange(guest=0, host=100_000, size=10),), (IdRange(guest=0, host=200_000, size=10),)
    user_map = UserMap(uids=ranges[0], gids=ranges[1])
    assert list(upper.changes(changed, [layer], user_map)) == []
    assert found(changed, layer) == ["C /d"]


def test_a_name_that_is_no_utf8_comes_back_as_it_was(make: Make) -> None:
    directory = make("upper")
    name = b"\xff\xfe a"
    open(os.fsencode(directory) + b"/" + name, "w").close()
    (change,) = upper.changes(directory, [])
    assert os.fsencode(change.path) == b"/" + name


def test_a_symlink_in_the_upper_directory_is_not_followed(make: Make, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x").touch()
    assert found(make("upper", [f"l>{tmp_path}/secret"])) == ["A /l"]


def test_changes_leave_no_descriptor_open_even_when_abandoned(make: Make) -> None:
    layer, changed = make("layer", ["a"]), make("upper", ["a", "b", "d/", "d/x"])
    before = sorted(os.listdir("/proc/self/fd"))
    iterator = upper.changes(changed, [layer] * 3)
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert sorted(os.listdir("/proc/self/fd")) == before


# --- the kernel as the judge -------------------------------------------------------------------------------


def random_operation(rng: random.Random, root: Path) -> None:
    """Do something to a tree of few names, so that operations meet."""
    names = [f"{first}{rest}" for first in "abc" for rest in ("", "/a", "/b", "/a/a", "/a/b")]
    path, other = root / rng.choice(names), root / rng.choice(names)
    operations: list[Callable[[], object]] = [
        lambda: path.mkdir(),
        lambda: _write(path, str(rng.random())),
        lambda: path.unlink(),
        lambda: path.rmdir(),
        lambda: path.rename(other),
        lambda: path.symlink_to("a"),
        lambda: os.link(path, other, follow_symlinks=False),
        lambda: os.chmod(path, rng.choice((0o700, 0o755))),
        lambda: os.chown(path, rng.randrange(3), 0, follow_symlinks=False),
        lambda: os.mkfifo(path),
        lambda: os.setxattr(path, "user.x", str(rng.random()).encode()),
        lambda: _remove_all(path),
    ]
    try:
        rng.choice(operations)()
    except OSError:
        return


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK)  # it may be a fifo
    os.write(fd, text.encode())
    os.close(fd)


def _remove_all(path: Path) -> None:
    for entry in list(path.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            _remove_all(entry)
        else:
            entry.unlink()
    path.rmdir()


def snapshot(root: Path) -> dict[str, object]:
    """Return path to everything that matters of it, as seen through a mount."""
    tree: dict[str, object] = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            info = os.lstat(path)
            content = ""
            if stat.S_ISREG(info.st_mode):
                content = Path(path).read_text()
            elif stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            attributes = {
                x: os.getxattr(path, x, follow_symlinks=False) for x in os.listxattr(path, follow_symlinks=False)
            }
            # The time of a directory is a change of it; the number of names of a file is not one of its content.
            tree["/" + os.path.relpath(path, root)] = (info.st_mode, info.st_uid, info.st_mtime_ns, content, attributes)
    return tree


def compare(before: dict[str, object], after: dict[str, object]) -> set[str]:
    """Say what `changes` should say, from two snapshots."""
    said = {f"A {path}" for path in after if path not in before}
    said |= {f"C {path}" for path in after if path in before and before[path] != after[path]}
    gone = {path for path in before if path not in after}
    said |= {
        f"D {path}" for path in gone if os.path.dirname(path) not in gone and os.path.dirname(path) in {*after, "/"}
    }
    # What is in a directory that became something else went with it.
    return {line for line in said if not (line[0] == "D" and _parent_is_no_directory(line[2:], after))}


def _parent_is_no_directory(path: str, after: dict[str, object]) -> bool:
    parent = after.get(os.path.dirname(path))
    return isinstance(parent, tuple) and not stat.S_ISDIR(parent[0])


@pytest.mark.parametrize("redirect", ["off", "on"])
@pytest.mark.parametrize("seed", range(12))
def test_changes_are_what_the_kernel_shows(
    tmp_path: Path, in_mount_namespace: InChild, seed: int, redirect: str
) -> None:
    def work() -> dict[str, list[str]]:
        rng = random.Random(seed)
        base = tmp_path / "t"
        layers = [base / "l0", base / "l1", base / "l2"]
        for path in (*layers, base / "upper", base / "work", base / "empty", base / "before", base / "after"):
            path.mkdir(parents=True)

        # Layers come into being as images do: each is the upper directory of a mount over those below.
        for number, layer in enumerate(layers):
            below = ":".join(map(str, [*reversed(layers[:number]), base / "empty"]))
            _overlay(base / "after", below, layer, base / f"work{number}", "off")
            for _ in range(40):
                random_operation(rng, base / "after")
            mount.umount2(str(base / "after"))
        chain = ":".join(map(str, reversed(layers)))
        mount.mount("overlay", str(base / "before"), "overlay", 0, f"lowerdir={chain}")
        _overlay(base / "after", chain, base / "upper", base / "work", redirect)
        before = snapshot(base / "before")
        for _ in range(40):
            random_operation(rng, base / "after")
        expected = compare(before, snapshot(base / "after"))
        lines = found(HostPath(str(base / "upper")), *(HostPath(str(layer)) for layer in layers))
        return {"expected": sorted(expected), "lines": lines, "before": sorted(before)}

    report = in_mount_namespace(work)
    lines, expected = set(report["lines"]), set(report["expected"])
    assert len(lines) == len(report["lines"]), "a path was named twice"
    assert expected <= lines
    # More than that may be said only of what was copied up and is the same as before, and of what leads to changes.
    for line in lines - expected:
        assert line[0] == "C"
        assert line[2:] in report["before"]


def _overlay(target: Path, lower: str, upper_directory: Path, work: Path, redirect: str) -> None:
    work.mkdir(exist_ok=True)
    data = f"lowerdir={lower},upperdir={upper_directory},workdir={work},redirect_dir={redirect},metacopy=off,index=off"
    mount.mount("overlay", str(target), "overlay", 0, data)

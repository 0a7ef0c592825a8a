"""Option `trace`: a line for every opening of a layer's file, and only for those."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from plugengine.errors import DriverError, UsageError
from plugengine.kernel.mount import MNT_DETACH, mount, umount2
from tests.drivers.fuse_union.conftest import MakeWorld
from tests.drivers.fuse_union.world import World
from tests.waiting import eventually

PAGE = 4096


def traced(make_world: MakeWorld, path: Path, **kwargs: Any) -> World:
    world = make_world(layers=2, options={"trace": str(path)}, **kwargs)
    (world.layers[0] / "dir" / "sub").mkdir(parents=True)
    (world.layers[0] / "dir" / "sub" / "deep").write_text("deep\n")
    (world.layers[1] / "top").write_text("top\n")
    shutil.copy("/bin/true", world.layers[0] / "program")
    return world.mount()


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def seen(path: Path) -> list[tuple[str, str, int]]:
    return [(event["op"], event["path"], event["layer"]) for event in events(path)]


def test_opened_executed_and_copied_files_of_layers_are_told_with_layer_and_process(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    world = traced(make_world, trace)
    (world.root / "dir" / "sub" / "deep").read_text()
    (world.root / "dir" / "sub" / "deep").read_text()
    with subprocess.Popen([world.root / "program"]) as process:
        assert process.wait() == 0
    with open(world.root / "top", "a") as stream:
        stream.write("more")
    (world.root / "top").read_text()
    (world.root / "new").write_text("no layer's")
    (world.root / "new").read_text()
    os.stat(world.root / "dir" / "sub" / "deep")
    world.unmount()
    assert seen(trace) == [
        ("open", "/dir/sub/deep", 0),
        ("open", "/dir/sub/deep", 0),
        ("exec", "/program", 0),
        ("write", "/top", 1),
    ]
    assert [event["pid"] for event in events(trace)] == [os.getpid(), os.getpid(), process.pid, os.getpid()]
    assert trace.stat().st_mode & 0o777 == 0o600


def test_lines_arrive_while_the_container_runs_and_a_second_run_adds_to_them(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    world = traced(make_world, trace)
    (world.root / "top").read_text()
    eventually(lambda: trace.stat().st_size)
    assert seen(trace) == [("open", "/top", 1)]
    world.remount()
    (world.root / "top").read_text()
    world.unmount()
    assert seen(trace) == [("open", "/top", 1)] * 2


def test_a_failed_open_and_names_that_are_no_text_harm_nothing(make_world: MakeWorld, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    world = traced(make_world, trace)
    odd = os.fsencode(world.layers[0]) + b'/\xff"\n'
    Path(os.fsdecode(odd)).write_text("x")
    world.remount()
    Path(os.fsdecode(os.fsencode(world.root) + b'/\xff"\n')).read_text()
    with pytest.raises(FileNotFoundError):
        (world.root / "none").read_text()
    world.unmount()
    assert [os.fsencode(path) for _, path, _ in seen(trace)] == [b'/\xff"\n']


def test_a_trace_inside_the_mount_point_blocks_nothing(make_world: MakeWorld) -> None:
    world = make_world()
    (world.layers[0] / "file").write_text("x")
    world = make_world(options={"trace": str(world.base.parent / "1" / "m" / "trace")})
    (world.layers[0] / "file").write_text("x")
    world.mount()
    assert (world.root / "file").read_text() == "x"
    world.unmount()
    assert seen(world.root / "trace") == [("open", "/file", 0)]


def test_a_full_disk_ends_the_trace_and_not_the_container(make_world: MakeWorld, tmp_path: Path) -> None:
    mount("tmpfs", str(tmp_path), "tmpfs", 0, "size=4k")
    try:
        world = traced(make_world, tmp_path / "trace")
        for _ in range(100):
            assert (world.root / "top").read_text() == "top\n"
        world.unmount()
        assert (tmp_path / "trace").stat().st_size == PAGE
        assert world.complaints == "fuse_union: trace: No space left on device; nothing more is written to it\n"
        world.log.unlink()
    finally:
        umount2(str(tmp_path), MNT_DETACH)


def test_a_trace_that_is_a_pipe_a_device_or_a_link_is_refused(make_world: MakeWorld, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("file")
    for name in ("pipe", "link", "/dev/full"):
        world = make_world(options={"trace": str(tmp_path / name)})
        with pytest.raises(DriverError, match="fuse_union: mount on"):
            world.mount()
        world.log.unlink()
    assert not (tmp_path / "file").exists()


def test_a_relative_trace_is_refused(make_world: MakeWorld) -> None:
    with pytest.raises(UsageError, match="not an absolute path"):
        make_world(options={"trace": "here"})

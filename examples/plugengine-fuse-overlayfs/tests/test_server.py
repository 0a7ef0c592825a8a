"""The server: what a death, a comma and the end look like. Needs root, /dev/fuse, and a kernel of one's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plugengine_fuse_overlayfs import pe_storage_probe
from plugengine_fuse_overlayfs.server import arguments

from plugengine.kernel.mount import umount2
from plugengine.model import Host, HostPath

CODE = """
import json, sys
from plugengine_fuse_overlayfs.server import serve
sys.exit(serve(json.loads(sys.argv[1]), lambda: print("ready", flush=True)))
"""
SOON_S = 10


@pytest.fixture
def config(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Return a configuration whose directories have names that mean something in mount options."""
    place = tmp_path / "b,c\\d"
    for name in ("o:ne", "two", "upper", "work", "target"):
        (place / name).mkdir(parents=True)
    (place / "o:ne" / "file").write_text("lower\n")
    yield {
        "target": str(place / "target"),
        "lowers": [str(place / "two"), str(place / "o:ne")],
        "upper": str(place / "upper"),
        "work": str(place / "work"),
        "read_only": False,
        "threaded": True,
        "fsync": False,
    }
    subprocess.run(["umount", "--lazy", str(place / "target")], check=False, capture_output=True)


def started(config: dict[str, Any]) -> subprocess.Popen[str]:
    """Start a server in a process of its own."""
    import json

    words = [sys.executable, "-c", CODE, json.dumps(config)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_it_says_when_it_has_mounted_and_ends_when_it_is_unmounted(config: dict[str, Any]) -> None:
    with started(config) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        assert server.stdout.readline() == "ready\n"
        target = Path(config["target"])
        assert (target / "file").read_text() == "lower\n"
        (target / "file").write_text("upper\n")
        umount2(config["target"], 0)
        assert server.wait(SOON_S) == 0
        assert server.stderr.read() == ""
    assert (Path(config["upper"]) / "file").read_text() == "upper\n"


def test_the_program_dies_with_its_server(config: dict[str, Any]) -> None:
    with started(config) as server:
        assert server.stdout is not None
        server.stdout.readline()
        [program] = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        server.send_signal(signal.SIGKILL)
        server.wait(SOON_S)
        deadline = time.monotonic() + SOON_S
        while os.path.exists(f"/proc/{program}") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not os.path.exists(f"/proc/{program}")


def test_a_program_that_cannot_mount_is_not_ready_and_has_its_last_words_in_the_log(config: dict[str, Any]) -> None:
    os.rmdir(config["target"])
    with started(config) as server:
        said, complained = server.communicate(timeout=SOON_S)
        assert said == ""
        assert "cannot" in complained or "mount" in complained
        assert server.returncode != 0


def test_a_root_with_a_colon_is_refused_by_the_probe() -> None:
    host = Host(root=HostPath("/srv/a:b"), run_root=HostPath("/run"), kernel=(6, 1))
    assert any("colon" in reason for reason in pe_storage_probe(host))


def test_options_become_those_of_the_program() -> None:
    base = {"target": "/t", "threaded": True, "fsync": False, "read_only": True}
    assert arguments(base, [3, 4], 5, 6)[3].split(",") == [
        "lowerdir=/proc/self/fd/3:/proc/self/fd/4",
        "upperdir=/proc/self/fd/5",
        "workdir=/proc/self/fd/6",
        "threaded=1",
        "fsync=0",
        "ro",
    ]

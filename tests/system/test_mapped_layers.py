"""What a container with a user namespace changed, and the owners in the layer made of it, by every storage driver."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system.test_bad_drivers import plug, storage
from tests.system.test_bad_input import NONE
from tests.system.test_matrix import STORAGE

# The kernel's overlayfs without its user maps: the engine changes the owners of all files at the first start.
SHIFTING = """
import plugengine_overlay
from msgspec.structs import replace
from plugengine.hookspecs import hookimpl
from plugengine.model import Capability
from plugengine_overlay import *

@hookimpl
def pe_storage_info():
    info = plugengine_overlay.pe_storage_info()
    return replace(info, capabilities=info.capabilities - {Capability.USER_MAP}, rank=-1)

@hookimpl
def pe_storage_prepare(request):
    return plugengine_overlay.pe_storage_prepare(replace(request, user_map=None))

@hookimpl
def pe_storage_mounts(request, record):
    return plugengine_overlay.pe_storage_mounts(replace(request, user_map=None), record)

@hookimpl
def pe_storage_upper(request, record):
    return plugengine_overlay.pe_storage_upper(replace(request, user_map=None), record)
"""
# Prints the owners in the layer of a container.
LAYER = """
    import io, json, sys, tarfile
    from plugengine import Engine
    from plugengine.containers import rootfs_view
    from plugengine.images.layers.diff import diff_layer
    from plugengine.state import container_rows
    with Engine() as engine:
        site = engine.site
        row = container_rows.get(site.state, sys.argv[1])
        out = io.BytesIO()
        with rootfs_view.overlay_form(site, row) as upper:
            diff_layer(upper.directory, out, user_map=upper.user_map)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        print(json.dumps({each.name.rstrip("/"): (each.uid, each.gid) for each in tar}))
"""
WORK = "echo x > /etc/made; chown 7:8 /etc/made; chown 3:4 /etc/passwd; rm /etc/group"
CHANGES = {"C /etc", "D /etc/group", "C /etc/passwd", "A /etc/made"}
OWNERS = {".": [0, 0], "etc": [0, 0], "etc/.wh.group": [0, 0], "etc/passwd": [3, 4], "etc/made": [7, 8]}


def owners(pe: Pe, container: str) -> dict[str, list[int]]:
    words = [sys.executable, "-c", textwrap.dedent(LAYER), container]
    done = subprocess.run(words, env=pe.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("driver", [*STORAGE, "shifting"])
def test_the_layer_has_the_owners_the_container_sees(pe: Pe, tmp_path: Path, driver: str) -> None:
    if driver == "shifting":
        pe = plug(pe, tmp_path / "packages", [storage("shifting", SHIFTING)])
    flags = ("--storage", driver, "--userns", "auto", *NONE)
    pe("create", "--name", "mapped", *flags, "host:base", "sh", "-c", WORK, check=True)
    try:
        assert pe("diff", "mapped", check=True).stdout == ""
        assert set(owners(pe, "mapped")) <= {"."}
        pe("start", "-a", "mapped", check=True)
        assert set(pe("diff", "mapped", check=True).stdout.splitlines()) == CHANGES
        assert owners(pe, "mapped") == OWNERS
    finally:
        pe("rm", "-f", "mapped", check=True)

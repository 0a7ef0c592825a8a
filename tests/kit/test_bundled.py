"""Every bundled driver passes the kit for its kind."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from plugengine.model import Kind
from plugengine.testing import Verdict, run
from tests.conftest import need, need_root
from tests.system.qemu import boot

# What a driver needs around it; a driver without a line here needs nothing.
FILESYSTEMS = {"btrfs": "btrfs"}
OPTIONS = {"macvlan": {"parent": "kit0"}}
CNI_PLUGINS: list[dict[str, Any]] = [
    {
        "type": "bridge",
        "bridge": "pe-kit0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]},
    },
    {"type": "portmap", "capabilities": {"portMappings": True}},
]
PATIENCE = 6.0  # the machine may have other things to do
# Tested in a machine of its own, below.
ELSEWHERE = {"v2"}


def bundled() -> list[tuple[str, str]]:
    """Return (kind, name) of every driver of this distribution."""
    return [
        (kind.value, point.name)
        for kind in Kind
        for point in entry_points(group=f"plugengine.{kind.value}")
        if point.dist is not None and point.dist.name == "plugengine" and point.name not in ELSEWHERE
    ]


def options_for(name: str, directory: Path) -> dict[str, str]:
    """Return the options a driver needs; `cni` gets the plugins that most installations use, with leases of its own."""
    if name != "cni":
        return OPTIONS.get(name, {})
    bridge, ports = CNI_PLUGINS
    plugins = [{**bridge, "ipam": {**bridge["ipam"], "dataDir": str(directory / "leases")}}, ports]
    conf = directory / "kit.conflist"
    conf.write_text(json.dumps({"cniVersion": "1.0.0", "name": "kit", "plugins": plugins}))
    return {"conf": str(conf)}


@pytest.mark.parametrize(("kind", "name"), bundled())
@pytest.mark.timeout(600)
def test_a_bundled_driver_passes_the_kit(kind: str, name: str, tmp_path: Path) -> None:
    need_root()
    options = options_for(name, tmp_path)
    report = run(kind, name, filesystem=FILESYSTEMS.get(name), options=options, patience=PATIENCE)
    need("; ".join(report.reasons))
    failed = [f"{outcome.id}: {'; '.join(outcome.reasons)}" for outcome in report.failures]
    assert not failed, "\n".join([report.summary, *failed[:10]])
    assert report.ok, report.summary
    skipped = [outcome for outcome in report.outcomes if outcome.verdict is Verdict.SKIPPED]
    need("; ".join(f"{outcome.id}: {outcome.message}" for outcome in skipped))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_driver_for_version_2_passes_the_kit_on_a_machine_with_version_2_only(tmp_path: Path) -> None:
    program = "import sys; from plugengine.cli import main; sys.exit(main())"
    done = boot(
        ["python", "-c", program, "driver", "test", "v2", "--directory", "/tmp", "--patience", "5"],
        tmp_path,
        modules=["loop"],
        programs=["/bin/sh", "/bin/cat", "/bin/sleep"],
        cmdline="cgroup_no_v1=all",
    )
    assert done.status == 0, done.output[-10_000:]
    assert " passed" in done.output

"""Groups of version 2; where the unified hierarchy has no controllers, everything but limits still works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import plugengine_cgroup_v2 as driver
import pytest
from plugengine_cgroup_v2 import groups
from plugengine_cgroup_v2.host import unified

from plugengine.errors import NotSupportedError
from plugengine.model import Host, HostPath
from tests.conftest import need, need_root
from tests.drivers.control_groups import Group, groups_of


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(root=HostPath(str(tmp_path)), run_root=HostPath(str(tmp_path)), kernel=(6, 1))


@pytest.fixture
def new_group(host: Host) -> Iterator[Callable[[], Group]]:
    """Return a maker of groups."""
    need_root()
    try:
        unified()
    except NotSupportedError as exc:
        need(str(exc))
    with groups_of(driver, host, lambda request: groups.create(request, unified())) as make:
        yield make


@pytest.fixture
def group(new_group: Callable[[], Group]) -> Group:
    return new_group()

"""What a first run changes on a machine, in a network namespace that plays the machine: nothing that stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from plugengine.testing.network.net_namespace import Place
from plugengine.testing.network.playground import BRANCH_ADDRESS, FAR_ADDRESS, Branch, World
from tests.conftest import Pe, need_root, need_tool
from tests.waiting import settled

DEMO = ("run", "--rm", "--storage", "fuse_union", "--net", "bridge", "host:base", "echo", "hello from plugengine")


@pytest.fixture
def machine() -> Iterator[Place]:
    """A host that forwards nothing, and in which the test itself runs."""
    need_root()
    with closing(Place()) as made, made.inside():
        yield made


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Pe]:
    """An engine of its own, as on a machine it was never used on."""
    made = Pe(tmp_path / "root", tmp_path / "run")
    yield made
    made.clean()
    made("system", "reset", "--force", check=True)


def state(machine: Place) -> dict[str, str]:
    """Return settings, packet filter, links and mounts as the usual tools show them."""
    for tool in ("sysctl", "nft", "ip"):
        need_tool(tool)
    settings = machine.run("sysctl", "-a").splitlines()
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "settings": "\n".join(line for line in settings if line.startswith("net.") and "conntrack_count" not in line),
        "rules": machine.run("nft", "list", "ruleset"),
        "links": machine.run("ip", "-o", "address").replace(" tentative", ""),  # of addresses that are a moment old
        "routes": machine.run("ip", "route") + machine.run("ip", "-6", "route"),
        "mounts": "\n".join(sorted(" ".join(line.split()[3:]) for line in mounts)),
    }


def assert_becomes(machine: Place, before: dict[str, str]) -> None:
    """The kernel removes the links of a namespace some moments after its end."""
    assert settled(lambda: state(machine), lambda now: now == before) == before


def test_the_machine_is_after_the_demo_as_it_was_before(machine: Place, own: Pe) -> None:
    with closing(World()):
        before = state(machine)
        assert own(*DEMO, check=True).stdout == "hello from plugengine\n"
        assert_becomes(machine, before)


def test_nothing_is_routed_through_the_machine_while_a_container_runs(machine: Place, own: Pe) -> None:
    with closing(World()) as world, closing(Branch(world)) as branch:
        before = state(machine)
        own("run", "-d", "--name", "web", "-p", "9000:80", "host:base", "sleep", "1000", check=True)
        for source, target, address in (
            (branch.place, world.place, FAR_ADDRESS),
            (world.place, branch.place, BRANCH_ADDRESS),
        ):
            with closing(target.listen(9000)):
                assert not source.reaches(address, 9000)
        own("rm", "-f", "web", check=True)
        assert_becomes(machine, before)

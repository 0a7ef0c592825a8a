"""Recovery of one container holds up nobody else, comes to an end, and says what it came to."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system import kills
from tests.system.conftest import Leftovers, eventually
from tests.system.kills import rows, state
from tests.system.test_bad_drivers import Plugged, plug, storage
from tests.system.test_bad_input import NONE
from tests.waiting import PATIENCE_S

# The bundled driver of the kernel, but how its hooks end is up to files in a directory.
_MOODY = """
import os, time
import plugengine_overlay
from plugengine_overlay import *
from plugengine.errors import DriverError
from plugengine.hookspecs import hookimpl

def moody(verb):
    mood = os.environ["MOODS"] + "/" + verb
    while os.path.exists(mood):
        with open(mood) as stream:
            what = stream.read()
        if what == "fails":
            raise DriverError(f"{verb}: out of sorts")
        if what == "crashes":
            os._exit(7)
        try:
            time.sleep(1000)
        except BaseException:
            if what != "hangs for good":
                raise
"""
_HOOKS = """
@hookimpl
def pe_storage_prepare(request):
    moody("prepare")
    return plugengine_overlay.pe_storage_prepare(request)

@hookimpl
def pe_storage_mounts(request, record):
    moody("mounts")
    return plugengine_overlay.pe_storage_mounts(request, record)

@hookimpl
def pe_storage_remove(request, record):
    moody("remove")
    return plugengine_overlay.pe_storage_remove(request, record)
"""
MOODY = storage("moody", _MOODY + _HOOKS)


class Moody(Plugged):
    """The real `pe` with a driver whose hooks end as a test likes."""

    moods: Path
    hook_timeout_s: int | None = None

    @property
    def environ(self) -> dict[str, str]:
        timeout = {} if self.hook_timeout_s is None else {"PLUGENGINE_HOOK_TIMEOUT": str(self.hook_timeout_s)}
        return {**super().environ, "MOODS": str(self.moods), **timeout}

    def mood(self, verb: str, what: str | None) -> None:
        """Have a hook end like this from now on: "hangs", "hangs for good", "fails", "crashes"; None: well."""
        (self.moods / verb).unlink(missing_ok=True)
        if what is not None:
            (self.moods / verb).write_text(what)

    def make(self, name: str, *words: str) -> str:
        """Create a container on the driver; return its id."""
        return self(
            "create", "--name", name, "--storage", "moody", *NONE, *words, "host:base", "true", check=True
        ).stdout.strip()


@pytest.fixture(scope="module")
def own(pe_env: Pe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moody]:
    """Roots for these tests, with the driver and an image."""
    directory = tmp_path_factory.mktemp("moody")
    made = Moody(directory / "root", directory / "run")
    made.moods = directory / "moods"
    made.moods.mkdir()
    made.path = plug(pe_env, directory / "packages", [MOODY]).path
    made("run", "--rm", *NONE, "host:base", "true", check=True)
    yield made
    made("system", "reset", "--force", check=True)


@pytest.fixture
def moody(own: Moody) -> Iterator[Moody]:
    """The engine with no container, before the test and after it."""
    before = Leftovers(own).now()
    yield own
    own.hook_timeout_s = None
    for verb in ("prepare", "mounts", "remove"):
        own.mood(verb, None)
    for pid in kills.process_named(own, "pe-recovery"):
        kills.kill(pid)
    for name in rows(own):
        own("rm", "-f", name, check=True)
    eventually(lambda: not {kind for kind, lines in Leftovers(own).now().items() if lines - before[kind]})


def interrupt(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    process.wait(PATIENCE_S)


def test_a_removal_that_hangs_holds_up_no_other_command_and_each_is_told_or_served(moody: Moody) -> None:
    name = moody.make("stuck")
    other = moody("create", *NONE, "host:base", "true", check=True).stdout.strip()
    moody.mood("remove", "hangs")
    removing = moody.popen("rm", name)
    eventually(lambda: rows(moody)[name] == "removing")
    interrupt(removing)
    first = moody("ps", "-a")
    assert (
        "container stuck: was removing when its owner was killed; its recovery goes on in the background"
        in first.stderr
    )
    assert "Removal In Progress" in first.stdout
    for words in (("ps",), ("inspect", "stuck"), ("start", "-a", other), ("run", "--rm", *NONE, "host:base", "true")):
        assert moody(*words, check=True).stderr == ""
    moody.mood("remove", None)
    assert rows(moody)[name] == "removing"


def test_a_recovery_that_hangs_comes_to_an_end_and_says_so(moody: Moody) -> None:
    moody.hook_timeout_s = 1
    name = moody.make("stuck")
    moody.mood("remove", "hangs")
    removing = moody.popen("rm", name)
    eventually(lambda: rows(moody)[name] == "removing")
    kills.kill(removing.pid)
    removing.wait(PATIENCE_S)
    moody("ps")
    eventually(lambda: rows(moody)[name] == "dead")
    assert "storage driver moody: remove did not return within 1 s" in state(moody, "stuck")["Error"]
    assert moody("ps").stderr == "", "it is left alone from now on"
    check = moody("system", "check")
    assert check.returncode == 1
    assert "container stuck: is dead, it could not be removed: storage driver moody: remove" in check.stdout
    moody.mood("remove", None)
    assert "repaired: container stuck: was dead; removed" in moody("system", "check", "--repair", check=True).stdout
    assert rows(moody) == {}


def test_a_recovery_that_cannot_be_interrupted_is_killed_and_says_so(moody: Moody) -> None:
    moody.hook_timeout_s = 1
    name = moody.make("stuck")
    moody.mood("remove", "hangs for good")
    removing = moody.popen("rm", name)
    eventually(lambda: rows(moody)[name] == "removing")
    kills.kill(removing.pid)
    removing.wait(PATIENCE_S)
    moody("ps")
    eventually(lambda: rows(moody)[name] == "dead")
    during = "during storage driver moody of pe-test-moody 1.2: remove"
    assert state(moody, "stuck")["Error"] == f"its recovery did not end within 8 s {during}"
    assert not kills.process_named(moody, "pe-recovery")


def test_containers_are_recovered_side_by_side(moody: Moody) -> None:
    stuck = moody.make("stuck")
    others = [moody("run", "-d", *NONE, "host:base", "sleep", "1000", check=True).stdout.strip() for _ in range(3)]
    monitors = [state(moody, other)["MonitorPid"] for other in others]
    moody.mood("remove", "hangs")
    removing = moody.popen("rm", stuck)
    eventually(lambda: rows(moody)[stuck] == "removing")
    for pid in (*monitors, removing.pid):
        kills.kill(pid)
    removing.wait(PATIENCE_S)
    moody("ps")
    eventually(lambda: {rows(moody)[other] for other in others} == {"exited"})
    assert rows(moody)[stuck] == "removing"


def test_a_removal_that_fails_leaves_a_dead_container_that_is_not_tried_again_until_somebody_asks(moody: Moody) -> None:
    name = moody.make("broken")
    moody.mood("remove", "fails")
    done = moody("rm", "broken")
    assert (done.returncode, done.stderr) == (1, "pe: remove: out of sorts\n")
    assert rows(moody)[name] == "dead"
    assert "Dead" in moody("ps", "-a", check=True).stdout
    done = moody("start", "broken")
    assert done.returncode == 1
    assert "container broken: is dead: remove: out of sorts" in done.stderr
    assert moody("rm", "broken").returncode == 1
    moody.mood("remove", None)
    assert moody("rm", "broken", check=True).stderr == ""
    assert rows(moody) == {}


def test_a_forced_removal_does_without_a_driver_that_fails_and_says_so(moody: Moody) -> None:
    name = moody.make("broken")
    moody.mood("remove", "fails")
    done = moody("rm", "-f", "broken", check=True)
    assert "warning: container broken: remove: out of sorts; removed without its storage driver" in done.stderr
    assert rows(moody) == {}
    assert not (moody.root / "containers" / name).exists()


def test_a_forced_removal_ends_a_recovery_that_does_not_come_to_an_end(moody: Moody) -> None:
    name = moody.make("stuck")
    moody.mood("remove", "hangs")
    removing = moody.popen("rm", name)
    eventually(lambda: rows(moody)[name] == "removing")
    interrupt(removing)
    moody("ps")
    done = moody("rm", "-f", "stuck", check=True)
    assert "removed without its storage driver" in done.stderr
    assert rows(moody) == {}
    assert not (moody.root / "containers" / name).exists()
    eventually(lambda: not kills.process_named(moody, "pe-recovery"))


def test_a_run_that_was_to_be_removed_says_that_it_was_not(moody: Moody) -> None:
    moody.mood("remove", "fails")
    done = moody("run", "--rm", "--name", "kept", "--storage", "moody", *NONE, "host:base", "sh", "-c", "exit 3")
    assert done.returncode == 3, "the command's own"
    assert "pe: container kept: could not be removed: remove: out of sorts" in done.stderr
    assert "hint: pe rm --force kept" in done.stderr
    assert set(rows(moody).values()) == {"dead"}
    moody("rm", "-f", "kept", check=True)


def test_a_container_that_could_neither_be_made_nor_removed_can_be_removed_by_force(moody: Moody) -> None:
    moody.mood("prepare", "hangs")
    making = moody.popen("create", "--name", "half", "--storage", "moody", *NONE, "host:base", "true")
    eventually(lambda: "creating" in rows(moody).values())
    moody.mood("remove", "hangs")
    kills.kill(making.pid)
    making.wait(PATIENCE_S)
    moody("ps")
    assert set(rows(moody).values()) == {"creating"}
    moody("rm", "-f", "half", check=True)
    assert rows(moody) == {}


def test_a_start_whose_driver_was_uninstalled_leaves_the_container_as_it_was(moody: Moody) -> None:
    name = moody.make("orphan")
    away = moody.path.rename(moody.path.with_name("away"))
    try:
        done = moody("start", "orphan")
        assert done.returncode == 1
        assert "storage driver moody: not installed" in done.stderr
        assert rows(moody) == {name: "created"}
        assert moody("system", "check", check=True).stdout == ""
    finally:
        away.rename(moody.path)
    moody("start", "-a", "orphan", check=True)


def test_a_driver_that_crashes_the_command_is_named_by_the_next_one(moody: Moody) -> None:
    moody.mood("prepare", "crashes")
    assert moody("create", "--name", "gone", "--storage", "moody", *NONE, "host:base", "true").returncode == 7
    during = "during storage driver moody of pe-test-moody 1.2: prepare"
    assert f"warning: container gone: was creating, its owner ended {during}; removed" in moody("ps").stderr
    assert rows(moody) == {}
    assert moody("ps").stderr == ""


def test_a_driver_that_crashes_while_a_start_is_planned_leaves_the_container_as_it_was(moody: Moody) -> None:
    moody.make("fallen")
    moody.mood("mounts", "crashes")
    assert moody("start", "fallen").returncode != 0
    moody.mood("mounts", None)
    assert state(moody, "fallen")["Status"] == "created"
    moody("start", "-a", "fallen", check=True)


def test_a_driver_that_crashes_its_recovery_is_named(moody: Moody) -> None:
    name = moody.make("cursed")
    moody.mood("remove", "hangs")
    removing = moody.popen("rm", name)
    eventually(lambda: rows(moody)[name] == "removing")
    moody.mood("remove", "crashes")
    kills.kill(removing.pid)
    removing.wait(PATIENCE_S)
    moody("ps")
    eventually(lambda: rows(moody)[name] == "dead")
    during = "during storage driver moody of pe-test-moody 1.2: remove"
    assert state(moody, "cursed")["Error"] == f"its recovery ended with exit code 7 {during}"


def test_several_removals_of_one_container_all_succeed(pe: Pe) -> None:
    for _ in range(5):
        name = pe("run", "-d", "--storage", "vfs", *NONE, "host:base", "sleep", "1000", check=True).stdout.strip()
        removals = [pe.popen("rm", "-f", name, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
        for removal in removals:
            _, complaint = removal.communicate(timeout=PATIENCE_S)
            assert removal.returncode == 0, complaint
        assert name not in rows(pe)


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2])
def test_a_container_whose_monitor_is_killed_while_it_is_removed_goes(pe: Pe, delay: float) -> None:
    name = pe("run", "-d", *NONE, "host:base", "sleep", "1000", check=True).stdout.strip()
    monitor = state(pe, name)["MonitorPid"]
    removal = pe.popen("rm", "-f", name, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(delay)
    kills.kill(monitor)
    _, complaint = removal.communicate(timeout=PATIENCE_S)
    assert removal.returncode == 0, complaint
    assert name not in rows(pe)

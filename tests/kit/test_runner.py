"""Cases run at once and are reported in order; what is not claimed is left out, and who cannot work here says so."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugengine.errors import DriverLoadError, NotFoundError, NotSupportedError, UsageError
from plugengine.hookspecs import hookimpl
from plugengine.model import Capability, Host
from plugengine.testing import Failure, Outcome, Verdict, run
from tests.conftest import need_root
from tests.kit import fakes
from tests.waiting import PATIENCE_S, eventually


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


def sleep(_: object) -> None:
    time.sleep(0.5)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory that cases of storage drivers can write to: what lasts is read-only for them."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def test_as_many_cases_run_at_once_as_there_are_jobs(memory: Path) -> None:
    def wait_for_all(subject: Any) -> None:
        (memory / str(os.getpid())).touch()
        eventually(lambda: len(list(memory.iterdir())) == 4)

    cases = [fakes.make_case(wait_for_all, f"try.{n}", deadline_s=30) for n in range(4)]
    assert run("storage", fakes.Good(), chosen=cases, jobs=4).ok


def test_one_job_runs_one_case_at_a_time(memory: Path) -> None:
    log = memory / "log"

    def note(_: object) -> None:
        for word in ("begin", "end"):
            with log.open("a") as stream:
                stream.write(f"{word}\n")
            time.sleep(0.02)

    run("storage", fakes.Good(), chosen=[fakes.make_case(note, f"try.{n}") for n in range(3)], jobs=1)
    assert log.read_text().split() == ["begin", "end"] * 3


def test_outcomes_come_and_are_listed_by_id_whichever_is_done_first() -> None:
    told: list[tuple[str, int, int]] = []
    cases = [fakes.make_case(sleep if n == 0 else fakes.nothing, f"try.{n}") for n in range(4)]

    def hear(outcome: Outcome, known: int, total: int) -> None:
        told.append((outcome.id, known, total))

    report = run("storage", fakes.Good(), chosen=list(reversed(cases)), jobs=2, progress=hear)
    names = [case.id for case in cases]
    assert told == [(name, number, 4) for number, name in enumerate(names, 1)]
    assert [outcome.id for outcome in report.outcomes] == names


def test_slow_cases_are_left_out_of_a_quick_run() -> None:
    cases = [fakes.make_case(fakes.nothing, "try.slow", slow=True), fakes.make_case(fakes.nothing, "try.swift")]
    report = run("storage", fakes.Good(), chosen=cases, quick=True)
    assert [outcome.verdict for outcome in report.outcomes] == [Verdict.LEFT_OUT, Verdict.PASSED]
    assert report.ok


class Claiming(fakes.Good):
    capabilities = frozenset({Capability.QUOTA})


@pytest.mark.parametrize(
    ("driver", "verdicts"),
    [(Claiming(), ["passed", "left-out", "passed"]), (fakes.Good(), ["left-out", "passed", "passed"])],
    ids=["claimed", "not claimed"],
)
def test_cases_of_what_is_not_claimed_are_left_out_and_those_of_its_refusal_of_what_is(
    driver: fakes.Good, verdicts: list[str]
) -> None:
    cases = [
        fakes.make_case(fakes.nothing, "try.1", needs=frozenset({Capability.QUOTA})),
        fakes.make_case(fakes.nothing, "try.2", refused=Capability.QUOTA),
        fakes.make_case(fakes.nothing, "try.3"),
    ]
    report = run("storage", driver, chosen=cases)
    assert [outcome.verdict.value for outcome in report.outcomes] == verdicts
    left_out = next(outcome for outcome in report.outcomes if outcome.verdict is Verdict.LEFT_OUT)
    assert left_out.message.endswith("claimed: quota")


def test_a_case_this_host_is_unsuitable_for_is_skipped_with_the_reason_and_is_no_pass() -> None:
    report = run("storage", fakes.Good(), chosen=[fakes.make_case(fakes.cannot)])
    assert (report.outcomes[0].verdict, report.outcomes[0].message) == (Verdict.SKIPPED, "no such <device>")
    assert not report.ok, "nothing passed"


def test_a_failure_has_its_words_its_traceback_and_what_was_written() -> None:
    outcome = run("storage", fakes.Good(), chosen=[fakes.make_case(fakes.speak)]).outcomes[0]
    assert (outcome.verdict, outcome.message) == (Verdict.FAILED, "spoke")
    assert "in speak" in outcome.traceback
    assert outcome.log.split("\n") == ["said on output", "said on error"]


class Unremovable(fakes.Good):
    @hookimpl
    def pe_storage_remove(self, request: Any, record: Any) -> None:
        raise ValueError("will not go")


def test_a_driver_that_cannot_undo_fails_the_case_even_if_nothing_else_did() -> None:
    outcome = run("storage", Unremovable(), chosen=[fakes.make_case(fakes.prepare)]).outcomes[0]
    assert outcome.verdict is Verdict.FAILED
    assert any("will not go" in reason for reason in outcome.reasons)


def test_a_child_that_runs_on_into_the_kit_reports_nothing() -> None:
    report = run("storage", fakes.Good(), chosen=[fakes.make_case(fakes.come_back_twice)])
    assert len(report.outcomes) == 1
    assert report.outcomes[0].verdict is Verdict.FAILED, "the child was left"


class Unable(fakes.Good):
    @hookimpl
    def pe_storage_probe(self, host: Host) -> tuple[str, ...]:
        return ("the moon is full",)


class Torn(fakes.Good):
    @hookimpl
    def pe_storage_probe(self, host: Host) -> tuple[str, ...]:
        raise Failure("torn")


class Leaving(fakes.Good):
    @hookimpl
    def pe_storage_probe(self, host: Host) -> tuple[str, ...]:
        os._exit(7)


@pytest.mark.parametrize(
    ("driver", "part"),
    [(Unable(), "the moon is full"), (Torn(), "torn"), (Leaving(), "exited with 7")],
    ids=["reasons", "raises", "exits"],
)
def test_a_driver_that_does_not_work_here_is_reported_so_and_no_case_is_run(driver: fakes.Good, part: str) -> None:
    report = run("storage", driver, chosen=[fakes.make_case(fakes.nothing)])
    assert part in report.reasons[0]
    assert (report.outcomes, report.ok, report.summary) == ((), False, "not supported here")


def test_a_driver_that_is_not_installed_is_named_with_the_near_miss() -> None:
    with pytest.raises(NotFoundError, match="storage driver overlai: not installed") as caught:
        run("storage", "overlai")
    assert "did you mean overlay?" in str(caught.value.hint)


def test_an_object_without_the_hooks_of_its_kind_is_refused() -> None:
    with pytest.raises(DriverLoadError):
        run("network", fakes.Good())


def test_a_filesystem_the_kit_cannot_make_is_named() -> None:
    with pytest.raises(UsageError, match="--filesystem vfat"):
        run("storage", fakes.Good(), filesystem="vfat", chosen=[])


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--directory .*/absent: no such file or directory"):
        run("storage", fakes.Good(), directory=str(tmp_path / "absent"), chosen=[])


@pytest.mark.parametrize("filesystem", ["btrfs", "ext4"])
def test_a_filesystem_is_made_for_the_cases_and_is_gone_afterwards(filesystem: str, tmp_path: Path) -> None:
    def look(subject: Any) -> None:
        done = subprocess.run(["stat", "-f", "-c", "%T", subject.scratch], capture_output=True, text=True, check=True)
        raise Failure(done.stdout.strip())

    before = Path("/proc/mounts").read_text()
    report = run(
        "storage", fakes.Good(), filesystem=filesystem, directory=str(tmp_path), chosen=[fakes.make_case(look)]
    )
    assert report.outcomes[0].message == {"btrfs": "btrfs", "ext4": "ext2/ext3"}[filesystem]
    assert report.host.filesystem == filesystem
    assert Path("/proc/mounts").read_text() == before
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed_by_the_next_and_nothing_else_is(tmp_path: Path) -> None:
    for name in ("pe-kit-old", "pe-kit-young", "pe-kit-others", "pe-kit-used", "other"):
        (tmp_path / name / "1" / "s").mkdir(parents=True)
        if name != "pe-kit-young":
            os.utime(tmp_path / name, (0, 0))
    (tmp_path / "pe-kit-link").symlink_to(tmp_path / "other")
    os.chown(tmp_path / "pe-kit-others", 1000, 1000)
    used = os.open(tmp_path / "pe-kit-used", os.O_RDONLY)
    fcntl.flock(used, fcntl.LOCK_EX)
    run("storage", fakes.Good(), directory=str(tmp_path), chosen=[])
    os.close(used)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["other", "pe-kit-link", "pe-kit-others", "pe-kit-used", "pe-kit-young"]
    assert (tmp_path / "other" / "1").is_dir()


def test_cases_of_network_drivers_have_a_host_of_their_own() -> None:
    def look(_: object) -> None:
        links = sorted(os.listdir("/sys/class/net"))
        groups = os.path.ismount("/sys/fs/cgroup")
        raise Failure(f"{os.readlink('/proc/self/ns/net')} {links} {groups}")

    report = run("network", "none", chosen=[fakes.make_case(look, id="network.try.it")])
    space, links = report.outcomes[0].message.split(" ", 1)
    assert space != os.readlink("/proc/self/ns/net")
    assert links == f"['kit0', 'lo'] {os.path.ismount('/sys/fs/cgroup')}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_a_run_that_is_ended_takes_all_its_processes_with_it(
    number: signal.Signals, tmp_path: Path, memory: Path
) -> None:
    pids = memory / "pids"
    script = f"""
import os, subprocess, time
from plugengine.testing import run
from tests.kit import fakes
def hang(_):
    child = subprocess.Popen(["sleep", "1000"])
    with open({str(pids)!r}, "w") as stream:
        stream.write(f"{{os.getppid()}} {{os.getpid()}} {{child.pid}}\\n")
    time.sleep(1000)
run("storage", fakes.Good(), chosen=[fakes.make_case(hang, deadline_s=100)], directory={str(tmp_path)!r})
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    eventually(lambda: pids.exists() and pids.read_text().endswith("\n"))
    found = [int(word) for word in pids.read_text().split()]
    process.send_signal(number)
    process.wait(PATIENCE_S)
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in found))


def test_without_root_it_says_so() -> None:
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        try:
            run("storage", fakes.Good(), chosen=[])
        except NotSupportedError as exc:
            os._exit(0 if "needs root" in exc.message else 2)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0

"""Each wrong storage driver is caught by the case meant for it, which the same driver unspoilt passes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from plugengine.model import Kind, Record, StorageRequest
from plugengine.testing import Outcome, Verdict, run
from plugengine.testing.cases import Case
from plugengine.testing.cases import cases as all_cases
from tests.conftest import need, need_root
from tests.kit import wrong_servers as servers
from tests.kit import wrong_storage as wrong
from tests.kit.wrong_storage import Good, GoodCopy, GoodServer

PATIENCE = 3.0  # the machine may have other things to do

# Driver, case, and words of the verdict.
WRONG: list[tuple[type[Good], str, str]] = [
    (wrong.ForgetsWhiteouts, "content.whiteouts", "should not be there"),
    (wrong.LosesAttributes, "content.xattrs", "xattrs is ()"),
    (wrong.LosesAttributes, "content.access-lists", "xattrs is ()"),
    (wrong.LosesAttributes, "content.file-capabilities", "security.capability"),
    (wrong.LosesOwners, "content.create", "uid is 0, not"),
    (wrong.LosesSetId, "content.modes", "mode is 0o755, not 0o4755"),
    (wrong.DatesEverythingNow, "content.create", "mtime_ns is just now"),
    (wrong.CutsNanoseconds, "content.times-of-copies", "mtime_ns is 1500000000000000000"),
    (wrong.BreaksHardLinks, "content.hard-links-in-a-layer", "links is ()"),
    (wrong.DropsTheSecondLayer, "content.many-layers", "missing"),
    (wrong.IgnoresReadOnly, "contract.read-only", "in a read-only container succeeded"),
    (wrong.IgnoresUserMap, "space.mapped-owners", "as seen from outside"),
    (wrong.SharesCopies, "contract.containers-are-apart", "the other container"),
    (wrong.KeepsAllInTheRunDirectory, "contract.reboot", "DriverError"),
    (wrong.KeepsTheWayInTheRunDirectory, "contract.reboot", "not known here"),
    (wrong.WritesIntoLayers, "contract.layers-stay", "layer 0"),
    (wrong.NotesInLayers, "contract.layers-stay", "trusted.in-use"),
    (wrong.LeavesHalfMade, "contract.prepare-fails-clean", "left behind"),
    (wrong.TrustsTheHalfMade, "crash.prepare-again", "prepared again"),
    (wrong.RemovesOnlyOnce, "contract.remove-twice", "not there"),
    (wrong.NeedsTheRecord, "contract.remove-without-record", "left behind"),
    (wrong.NeedsTheRecord, "crash.prepare", "left behind"),
    (wrong.RemovesNothing, "contract.remove-twice", "left behind"),
    (wrong.RemovesByHand, "contract.remove-hostile-content", "out of the container"),
    (wrong.CollectsValidOnes, "contract.gc", "DriverError"),
    (wrong.CollectsNothing, "crash.prepare-then-gc", "left behind"),
    (wrong.RecordIsNoJson, "contract.record-is-enough", "is no JSON"),
    (wrong.RemembersInTheProcess, "contract.record-is-enough", "not prepared"),
    (wrong.MountsMakeSomething, "contract.mounts-are-pure", "after mounts"),
    (wrong.MountsDiffer, "contract.mounts-are-pure", "the second answer of mounts"),
    (wrong.LeaksDescriptors, "contract.mounts-are-pure", "left descriptor"),
    (wrong.ServerDies, "contract.server-ends", ""),
    (servers.KeepsWhatItWasToldOnce, "posix.changes-are-seen", "(False, False)"),
    (servers.KeepsWhatItWasToldOnce, "posix.mapped-holes-are-filled", "(False, 0), not (True, 0)"),
    (servers.LeavesAtOnce, "contract.server-ends", "exited with 7 when it was unmounted"),
    (servers.KeepsSetId, "posix.set-id-goes-with-every-change", "'_write': (None, '0o6777', '0o6777', '0o6777')"),
    (servers.KeepsSetId, "posix.set-id-stays-by-capability", "'_write': (None, '0o6755', '0o6755', '0o6755')"),
    (servers.KeepsSetId, "posix.set-id-set-while-writing", "('0o6755', '0o6755')"),
    (wrong.LiesAboutQuota, "space.limit", "bytes were taken"),
    (wrong.LiesAboutDiff, "layers.changes", "missing"),
    (wrong.UpperLosesWhiteouts, "layers.changes", "D /usr/lib/b.so"),
    (wrong.SaysOwnersAreInside, "space.mapped-layer", "owner of /made in the layer"),
    (wrong.UpperChanges, "layers.same-digest", "digests of one container's layer"),
    (wrong.UpperLosesWhiteouts, "layers.round-trip", "should not be there"),
    (wrong.UpperLosesWhiteouts, "layers.read-by-others", "should not be there"),
    (wrong.CountsLayers, "space.usage-without-layers", "that wrote nothing"),
    (wrong.CountsNothing, "space.usage", "growth of size_bytes"),
    (wrong.HidesWhyItFailed, "space.full-while-preparing", "not NoSpaceError"),
    (wrong.RacesForTheChain, "concurrency.new-chain", "at once"),
]


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


@cache
def case_named(name: str) -> Case:
    return next(case for case in all_cases(Kind.STORAGE) if case.id == f"storage.{name}")


def outcome_of(driver: Good, case: Case) -> Outcome:
    report = run("storage", driver, chosen=[case], patience=PATIENCE)
    need("; ".join(report.reasons))
    return report.outcomes[0]


BASES: dict[str, type[Good]] = {base.module.__name__: base for base in (Good, GoodCopy, GoodServer)}


@cache
def passes_unspoilt(module: str, name: str) -> Outcome:
    return outcome_of(BASES[module](), case_named(name))


@pytest.mark.parametrize(("driver", "name", "words"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_a_wrong_driver_is_caught_by_the_case_meant_for_it(driver: type[Good], name: str, words: str) -> None:
    found = outcome_of(driver(), case_named(name))
    assert found.verdict is Verdict.FAILED, f"{driver.__name__} passed {name}"
    assert words in "; ".join(found.reasons)
    unspoilt = passes_unspoilt(driver.module.__name__, name)
    if driver in (wrong.LiesAboutQuota, wrong.LiesAboutDiff):
        assert unspoilt.verdict is Verdict.LEFT_OUT, "the case tests the very claim"
    else:
        assert unspoilt.verdict is Verdict.PASSED, "; ".join(unspoilt.reasons)


@pytest.mark.parametrize("filesystem", [None, "ext4"])
def test_a_driver_that_goes_astray_changes_nothing_of_the_machine(tmp_path: Path, filesystem: str | None) -> None:
    class Astray(Good):
        def prepare(self, request: StorageRequest) -> Record:
            (tmp_path / "precious").unlink()
            return super().prepare(request)

    (tmp_path / "precious").touch()
    report = run(
        "storage", Astray(), chosen=[case_named("contract.prepare-twice")], patience=PATIENCE, filesystem=filesystem
    )
    assert (tmp_path / "precious").exists()
    assert "read-only file system" in "; ".join(report.outcomes[0].reasons).lower()

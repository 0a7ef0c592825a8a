"""A class and a fixture make a test of each case, with the verdict and the words of the kit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import need_root

HEAD = """
import pytest
from plugengine.testing import CgroupConformance, NamespaceConformance, NetworkConformance, StorageConformance
from tests.kit import fakes
"""


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


def run_pytest(directory: Path, source: str, *words: str) -> str:
    """Run pytest on a module of its own; return what it said."""
    (directory / "test_acme.py").write_text(HEAD + source)
    (directory / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider --color=no\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-W", "error", *words],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


OVERLAY = """
class TestAcme(StorageConformance):
    @pytest.fixture
    def driver(self):
        return "overlay"
"""
CHOSEN = ("-k", "prepare-twice or remove-twice")


def test_each_case_is_a_test_named_by_its_id(tmp_path: Path) -> None:
    said = run_pytest(tmp_path, OVERLAY, "-v", *CHOSEN)
    assert "TestAcme::test_conforms[storage.contract.prepare-twice] PASSED" in said
    assert "TestAcme::test_conforms[storage.contract.remove-twice] PASSED" in said
    assert re.search(r"2 passed, \d+ deselected", said)


BAD = """
class TestAcme(StorageConformance):
    @pytest.fixture
    def driver(self):
        return fakes.Bad(fakes.change_the_directory)
"""


def test_an_object_that_is_not_installed_is_tested_and_fails_with_the_words_of_the_case(tmp_path: Path) -> None:
    said = run_pytest(tmp_path, BAD, *CHOSEN)
    assert "storage.contract.prepare-twice: " in said
    assert "pe_storage_prepare changed the working directory from" in said
    assert "1 failed, 1 passed" in said or "2 failed" in said


NETWORK = """
class TestAcme(NetworkConformance):
    @pytest.fixture
    def driver(self):
        return "none"
"""


def test_cases_of_what_is_not_claimed_are_not_collected(tmp_path: Path) -> None:
    said = run_pytest(tmp_path, NETWORK, "--collect-only", "-q")
    assert "[network." in said
    assert "[network.ports.not-claimed]" in said
    assert "[network.ports.gone]" not in said


LATE = """
class TestAcme(NetworkConformance):
    @pytest.fixture
    def driver(self, tmp_path):
        return "none"
"""


def test_where_the_driver_is_known_late_they_are_skipped_as_not_claimed(tmp_path: Path) -> None:
    said = run_pytest(tmp_path, LATE, "-k", "ports.gone")
    assert "1 skipped" in said
    assert "not claimed: ports" in said


def test_the_fixtures_for_options_and_place_are_used(tmp_path: Path) -> None:
    source = (
        OVERLAY
        + """
    @pytest.fixture
    def driver_options(self):
        return {"colour": "red"}
    @pytest.fixture
    def directory(self, tmp_path_factory):
        return str(tmp_path_factory.getbasetemp())
    @pytest.fixture
    def filesystem(self):
        return "ext4"
"""
    )
    said = run_pytest(tmp_path, source, "-k", "prepare-twice", "--basetemp", str(tmp_path / "base"))
    assert "1 failed" in said
    assert "colour" in said
    assert list((tmp_path / "base").glob("pe-kit-*")) == []


UNABLE = """
class Unable(fakes.Good):
    def pe_storage_probe(self, host):
        return ("the moon is full",)
    pe_storage_probe.plugengine_impl = fakes.Good.pe_storage_probe.plugengine_impl

class TestAcme(StorageConformance):
    @pytest.fixture
    def driver(self):
        return Unable()
"""


def test_a_driver_that_does_not_work_here_is_skipped_with_the_reasons(tmp_path: Path) -> None:
    said = run_pytest(tmp_path, UNABLE, "-k", "prepare-twice")
    assert "1 skipped" in said
    assert "not supported here: the moon is full" in said


def test_a_class_may_say_that_nothing_is_skipped(tmp_path: Path) -> None:
    source = (
        UNABLE
        + """
    def not_suitable(self, reason):
        pytest.fail(reason)
"""
    )
    assert "1 failed" in run_pytest(tmp_path, source, "-k", "prepare-twice")


def test_a_driver_that_is_not_installed_fails_each_test_with_the_near_miss(tmp_path: Path) -> None:
    said = run_pytest(tmp_path, OVERLAY.replace('"overlay"', '"overlai"'), "-k", "prepare-twice")
    assert "storage driver overlai: not installed" in said


def test_a_class_without_a_driver_says_what_is_missing(tmp_path: Path) -> None:
    said = run_pytest(tmp_path, "class TestAcme(StorageConformance):\n    pass\n", "-k", "prepare-twice")
    assert "give the class a fixture named driver" in said


def test_the_kit_is_imported_without_pytest() -> None:
    code = (
        "import sys; import plugengine.testing.runner, plugengine.testing.page; "
        "from plugengine.testing import run, case, Report; sys.exit('pytest' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

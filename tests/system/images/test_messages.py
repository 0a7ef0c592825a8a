"""What people read when an archive is no good, and when the store cannot be repaired."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Pe


def test_a_damaged_archive_from_a_pipe_is_called_standard_input(pe: Pe) -> None:
    done = pe("load", input="no archive at all, however long one looks at it" * 40)
    assert done.returncode == 125
    assert done.stderr.startswith("pe: standard input: ")


def test_an_imported_pipe_is_called_standard_input(pe: Pe) -> None:
    done = pe("import", "-", "x:y", input="no archive at all" * 100)
    assert done.returncode == 125
    assert done.stderr.startswith("pe: standard input: ")


def test_a_damaged_manifest_is_not_called_repaired(tmp_path: Path) -> None:
    own = Pe(tmp_path / "root", tmp_path / "run")
    own("run", "--rm", "--net", "none", "host:base", "true", check=True)
    digest = own("image", "inspect", "host:base", "--format", "{{index .RepoDigests 0}}").stdout.strip().split(":")[-1]
    blob = own.root / "blobs/sha256" / digest
    assert blob.exists()
    blob.write_bytes(b"{}")
    for _ in range(2):
        done = own("system", "check", "--repair")
        assert "manifest is damaged" in done.stdout
        assert "repaired" not in done.stdout
    own("system", "reset", "--force")

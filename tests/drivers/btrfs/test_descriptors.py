"""On Btrfs a directory that was opened before its entries were made is listed and emptied like any other."""

from __future__ import annotations

import os
from pathlib import Path

from plugengine.kernel.files import names_in
from plugengine.trees.remove_at import empty
from tests.drivers.filesystems import mounted


def test_entries_made_after_the_directory_was_opened_are_seen_and_removed(tmp_path: Path) -> None:
    with mounted("btrfs", tmp_path) as point:
        directory = point / "directory"
        directory.mkdir()
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            (directory / "below").mkdir()
            (directory / "below" / "file").touch()
            assert names_in(fd) == ["below"]
            (directory / "file").touch()
            empty(fd)
            assert list(directory.iterdir()) == []
        finally:
            os.close(fd)

"""The space of an upper directory."""

from __future__ import annotations

import os

from plugengine.model import Usage
from plugengine.trees import upper
from tests.system.trees.conftest import Make


def test_an_empty_upper_directory_takes_nothing(make: Make) -> None:
    assert upper.usage(make("upper")) == Usage(size_bytes=0, inodes=0)


def test_a_file_counts_with_the_blocks_it_has_and_once_for_all_its_names(make: Make) -> None:
    directory = make("upper", ["a"])
    with open(f"{directory}/a", "wb") as stream:
        stream.write(b"x" * (1 << 20))
        stream.truncate(1 << 40)
    os.link(f"{directory}/a", f"{directory}/b")
    found = upper.usage(directory)
    assert found.inodes == 1
    assert 1 << 20 <= found.size_bytes < 2 << 20


def test_everything_below_counts(make: Make) -> None:
    directory = make("upper", ["d/", "d/e/", "d/e/f=x", "l>x", "-w"])
    assert upper.usage(directory).inodes == 5


def test_a_tree_too_deep_for_a_path_counts(make: Make) -> None:
    directory = make("upper")
    here = os.getcwd()
    try:
        os.chdir(directory)
        for _ in range(3000):
            os.mkdir("dd")
            os.chdir("dd")
    finally:
        os.chdir(here)
    assert upper.usage(directory).inodes == 3000
    upper.remove_tree(directory)
    assert not os.path.exists(directory)

"""Names and options of a run: the near miss is named."""

from __future__ import annotations

import pytest

from plugengine.bench import selection
from plugengine.errors import NotFoundError, UsageError
from plugengine.plugins.registry import Registry


def test_a_near_miss_is_named() -> None:
    with pytest.raises(NotFoundError, match="workload latncy: there is none") as caught:
        selection.check_names("workload", ["latncy"], ["stream", "latency"])
    assert caught.value.hint == "there are: stream, latency; did you mean latency?"


def test_each_name_counts_once_and_none_means_all() -> None:
    assert selection.check_names("workload", ["b", "b"], ["a", "b"]) == ("b",)
    assert selection.check_names("workload", [], ["a", "b"]) == ("a", "b")


def test_options_belong_to_a_driver() -> None:
    assert selection.parse_options(["vfs:a=1", "vfs:b=x=y", "n:c="]) == {"vfs": {"a": "1", "b": "x=y"}, "n": {"c": ""}}


@pytest.mark.parametrize("word", ["vfs", "vfs:", "vfs:a", ":a=1", "a=1", "vfs:=1"])
def test_what_is_no_option_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="not DRIVER:NAME=VALUE"):
        selection.parse_options([word])


def test_options_are_checked_before_anything_is_measured() -> None:
    registry = Registry()
    selection.check_options(registry, ["storage"], {"fuse_union": {"fsync": "off"}})
    with pytest.raises(UsageError, match="no option fsink") as caught:
        selection.check_options(registry, ["storage"], {"fuse_union": {"fsink": "off"}})
    assert "did you mean fsync?" in (caught.value.hint or "")
    with pytest.raises(NotFoundError, match="fuse_onion") as missing:
        selection.check_options(registry, ["storage"], {"fuse_onion": {"fsync": "off"}})
    assert "did you mean fuse_union?" in (missing.value.hint or "")

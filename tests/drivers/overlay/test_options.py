"""Options of the overlay driver: those known, and what is said of others."""

from __future__ import annotations

import pytest
from plugengine_overlay import options
from plugengine_overlay.options import mount_options

from plugengine.errors import UsageError


def test_without_options_nothing_an_image_says_steers_the_filesystem() -> None:
    assert mount_options({}) == (("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"metacopy": "on"}, ("metacopy", "on")),
        ({"redirect_dir": "on"}, ("redirect_dir", "on")),
        ({"index": "on"}, ("index", "on")),
        ({"xino": "auto"}, ("xino", "auto")),
        ({"volatile": "on"}, ("volatile", None)),
    ],
)
def test_an_option_becomes_a_mount_option(given: dict[str, str], expected: tuple[str, str | None]) -> None:
    assert expected in mount_options(given)


def test_volatile_off_is_no_mount_option() -> None:
    assert "volatile" not in dict(mount_options({"volatile": "off"}))


def test_an_unknown_option_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="storage option metacpy") as caught:
        mount_options({"metacpy": "on"})
    assert "did you mean metacopy?" in (caught.value.hint or "")
    assert "redirect_dir" in (caught.value.hint or "")


def test_an_unknown_value_is_refused_with_those_known() -> None:
    with pytest.raises(UsageError, match="storage option xino=maybe: not on or off or auto"):
        mount_options({"xino": "maybe"})


def test_every_option_is_described() -> None:
    assert {option.name for option in options.OPTIONS} == {"index", "metacopy", "redirect_dir", "volatile", "xino"}
    assert all(option.help for option in options.OPTIONS)

"""Options of the overlay driver: what becomes of them."""

from __future__ import annotations

import pytest
from plugengine_overlay import pe_storage_info
from plugengine_overlay.options import mount_options

from tests.drivers.options import values


def options(given: dict[str, str] | None = None, *, ephemeral: bool = False) -> tuple[tuple[str, str | None], ...]:
    return mount_options(values(pe_storage_info(), given), ephemeral=ephemeral)


def test_without_options_nothing_an_image_says_steers_the_filesystem() -> None:
    assert options() == (("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow"))


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
    assert expected in options(given)


def test_what_need_not_survive_is_volatile_unless_that_is_off() -> None:
    assert "volatile" in dict(options(ephemeral=True))
    assert "volatile" not in dict(options({"volatile": "off"}, ephemeral=True))
    assert "volatile" not in dict(options())


def test_every_option_is_described() -> None:
    found = pe_storage_info().options
    assert {option.name for option in found} == {"index", "metacopy", "redirect_dir", "volatile", "xino"}
    assert all(option.help for option in found)

"""Values are written with three digits and a unit of their size."""

from __future__ import annotations

import pytest

from plugengine.bench.units import number, scale


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0012345, "0.00123"),
        (1, "1.00"),
        (9.996, "10.0"),
        (12.34, "12.3"),
        (999.6, "1,000"),
        (12345.6, "12,300"),
        (-2.5, "-2.50"),
    ],
)
def test_a_number_has_three_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("unit", "values", "text"),
    [
        ("s", (0.00123, 0.00456, 0.5), "1.23 ms"),
        ("s", (2e-10,), "0.200 ns"),
        ("s", (61.5,), "61.5 s"),
        ("B", (3 * 1024**2,), "3.00 MiB"),
        ("B/s", (1536 * 1024,), "1.50 MiB/s"),
        ("B", (512,), "512 B"),
        ("1/s", (12345,), "12.3 k/s"),
        ("1/s", (0.5,), "0.500 /s"),
        ("packets", (7,), "7.00 packets"),
    ],
)
def test_values_shown_together_share_the_unit_that_fits_their_middle(
    unit: str, values: tuple[float, ...], text: str
) -> None:
    assert scale(unit, values).text(values[0]) == text


def test_values_that_are_all_zero_keep_a_unit() -> None:
    assert scale("s", (0.0, 0.0)).text(0.0) == "0 s"

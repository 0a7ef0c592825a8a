from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.cli.parse.errors import FlagError
from plugengine.cli.parse.quantities import (
    parse_bool,
    parse_choice,
    parse_cpus,
    parse_int,
    parse_limit,
    parse_memory_swap,
    parse_size,
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        pytest.param("0", 0, id="zero"),
        pytest.param("4096", 4096, id="bytes without a unit"),
        pytest.param("100b", 100, id="b"),
        pytest.param("64k", 64 * KIB, id="k"),
        pytest.param("64m", 64 * MIB, id="m"),
        pytest.param("64M", 64 * MIB, id="capital"),
        pytest.param("64mb", 64 * MIB, id="mb is binary, as docker has it"),
        pytest.param("64MiB", 64 * MIB, id="MiB"),
        pytest.param("64 m", 64 * MIB, id="a blank"),
        pytest.param("1.5g", 3 * GIB // 2, id="a fraction"),
        pytest.param("0.5k", 512, id="a fraction below one"),
        pytest.param("2t", 2048 * GIB, id="t"),
        pytest.param("1p", GIB * MIB, id="p"),
        pytest.param("9223372036854775807", 2**63 - 1, id="the largest"),
    ],
)
def test_sizes_mean_what_docker_makes_of_them(text: str, size: int) -> None:
    assert parse_size("--memory", text) == size


@pytest.mark.parametrize(
    "text",
    ["", "m", "64q", "-1", "1e3", "64mm", "1.m", ".5m", "1.2.3m", "64ib", "6 4m", "0x10", "٣m", "1_000", "+5", "iB"],
)
def test_what_is_no_size_is_refused_with_the_flag_the_value_and_an_example(text: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse_size("--memory", text)
    assert caught.value.message.startswith(f"--memory {text or repr(text)}: not a size")
    assert caught.value.hint == "for example --memory 64m"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["9223372036854775808", "8192p", "9" * 400, "1." + "1" * 400])
def test_a_size_no_file_can_have_is_refused(text: str) -> None:
    with pytest.raises(FlagError, match="larger than any file or memory"):
        parse_size("--memory", text)


@given(number=st.integers(0, 2**20), unit=st.sampled_from("kmgt"), tail=st.sampled_from(["", "b", "ib", "B", "iB"]))
def test_every_unit_is_a_power_of_1024(number: int, unit: str, tail: str) -> None:
    assert parse_size("--memory", f"{number}{unit}{tail}") == number * 1024 ** ("kmgt".index(unit) + 1)


@given(thousandths=st.integers(0, 10**9))
def test_a_fraction_is_cut_never_rounded_up(thousandths: int) -> None:
    text = f"{thousandths // 1000}.{thousandths % 1000:03}k"
    assert parse_size("--memory", text) == thousandths * KIB // 1000


@given(text=st.text(max_size=20))
def test_any_text_gives_a_size_or_an_error_of_ours(text: str) -> None:
    try:
        size = parse_size("--memory", text)
    except FlagError:
        return
    assert 0 <= size < 2**63


def test_a_limit_of_zero_is_no_limit() -> None:
    assert parse_limit("--memory", "0") is None
    assert parse_limit("--memory", "1") == 1


@pytest.mark.parametrize(("text", "limit"), [("-1", -1), ("0", None), ("1g", GIB)])
def test_memory_swap_knows_minus_one(text: str, limit: int | None) -> None:
    assert parse_memory_swap("--memory-swap", text) == limit


@pytest.mark.parametrize(
    ("text", "quota"),
    [("1", 100_000), ("0.5", 50_000), (".25", 25_000), ("1.999", 199_900), ("0", None), ("2", 200_000), ("0.01", 1000)],
)
def test_processors_become_microseconds_of_a_tenth_of_a_second(text: str, quota: int | None) -> None:
    assert parse_cpus("--cpus", text, available=2) == quota


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("2.5", "this host has 2", id="more than there are"),
        pytest.param("0.001", "less than the hundredth", id="less than the kernel takes"),
        pytest.param("-1", "not a number", id="negative"),
        pytest.param("half", "not a number", id="a word"),
        pytest.param("", "not a number", id="nothing"),
        pytest.param(".", "not a number", id="a point"),
        pytest.param("1" * 200, "not a number", id="endless"),
    ],
)
def test_processors_that_cannot_be_are_refused(text: str, why: str) -> None:
    with pytest.raises(FlagError, match=why):
        parse_cpus("--cpus", text, available=2)


@given(number=st.integers(-1000, 1000))
def test_whole_numbers_inside_the_bounds_are_themselves(number: int) -> None:
    assert parse_int("--oom-score-adj", str(number), low=-1000, high=1000) == number


@pytest.mark.parametrize("text", ["1001", "-1001", "1.5", "ten", "", "-", "1 2", "٣", "9" * 5000])
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(FlagError, match="--oom-score-adj"):
        parse_int("--oom-score-adj", text, low=-1000, high=1000)


def test_a_choice_lists_the_choices() -> None:
    assert parse_choice("--pull", "never", ("missing", "always", "never")) == "never"
    with pytest.raises(FlagError, match="not missing, always or never"):
        parse_choice("--pull", "sometimes", ("missing", "always", "never"))


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("T", True), ("false", False), ("0", False)])
def test_truth_in_the_words_of_go(text: str, value: bool) -> None:
    assert parse_bool("--rm", text) is value


def test_other_words_are_not_truth() -> None:
    with pytest.raises(FlagError, match="not true or false"):
        parse_bool("--rm", "yes")

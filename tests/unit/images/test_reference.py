"""Names of images: docker's grammar, short names kept short."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.errors import UsageError
from plugengine.images.digest import is_digest
from plugengine.images.reference import is_id_prefix, parse

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web", "web:latest"),
        ("web:v1", "web:v1"),
        ("library/web", "library/web:latest"),
        ("docker.io/library/web", "web:latest"),
        ("docker.io/web", "web:latest"),
        ("index.docker.io/me/web:2", "me/web:2"),
        ("docker.io/library/a/b", "library/a/b:latest"),
        ("localhost/web", "localhost/web:latest"),
        ("localhost:5000/web", "localhost:5000/web:latest"),
        ("Registry/web:1", "Registry/web:1"),
        ("registry.example.com:443/a/b-c/d__e.f:V_1.2-x", "registry.example.com:443/a/b-c/d__e.f:V_1.2-x"),
        ("[2001:db8::1]:5000/web", "[2001:db8::1]:5000/web:latest"),
        ("web@" + DIGEST, "web@" + DIGEST),
        ("web:v1@" + DIGEST, "web:v1@" + DIGEST),
        ("a" * 255, "a" * 255 + ":latest"),
        ("localhost/" + "a" * 64, "localhost/" + "a" * 64 + ":latest"),
        ("me/sha256:1", "me/sha256:1"),
        ("a---b/c", "a---b/c:latest"),
    ],
)
def test_a_name_is_shown_short_and_with_its_tag(text: str, shown: str) -> None:
    assert str(parse(text)) == shown


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (":tag", "empty"),
        ("Web", "lower case"),
        ("a/Web", "lower case"),
        ("we b", "made of"),
        ("web:", "a tag is made of"),
        ("web:-x", "a tag is made of"),
        ("web:" + "t" * 129, "a tag is made of"),
        ("web:a\n", "a tag is made of"),
        ("web\n", "made of"),
        ("a..b", "made of"),
        ("a___b", "made of"),
        ("-a", "made of"),
        ("a/", "made of"),
        ("/a", "made of"),
        ("a//b", "made of"),
        ("../etc", "not a host name"),
        ("a/../b", "made of"),
        ("ex_ample.com/a", "not a host name"),
        ("host:port/a", "not a host name"),
        ("-x.com/a", "not a host name"),
        ("web@sha256:123", "digest"),
        ("web@md5:" + "0" * 32, "digest"),
        ("web@" + DIGEST.upper(), "digest"),
        ("web@" + DIGEST + "/../../x", "digest"),
        ("web@", "digest"),
        ("0123456789abcdef" * 4, "are an id"),
        ("0123456789abcdef" * 4 + ":v1", "are an id"),
        ("docker.io/library/" + "0123456789abcdef" * 4, "are an id"),
        ("index.docker.io/" + "a" * 64 + ":v1", "are an id"),
        (DIGEST, "begins an id"),
        ("sha256", "begins an id"),
        ("docker.io/library/sha256:abc", "begins an id"),
        ("a" * 256, "longer than"),
    ],
)
def test_a_malformed_name_is_refused_with_the_part_that_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse(text)


# The same grammar once more, written flat, to catch a slip in the structured reader.
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-*)[a-z0-9]+)*"
_FLAT = re.compile(rf"{_COMPONENT}(/{_COMPONENT})*(:[\w][\w.-]{{0,127}})?", re.ASCII)


@given(st.text(alphabet="aB0._-/:@", max_size=12))
def test_what_is_accepted_without_a_host_fits_the_flat_grammar(text: str) -> None:
    try:
        parsed = parse(text)
    except UsageError:
        return
    first, slash, _ = text.partition("/")
    has_host = slash and (set(first) & set(".:") or first != first.lower())
    assert has_host or _FLAT.fullmatch(text)
    assert ".." not in parsed.repository.split("/")


@given(st.from_regex(rf"\A{_COMPONENT}(/{_COMPONENT}){{0,2}}(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{{0,9}})?\Z", fullmatch=True))
def test_parsing_what_is_shown_gives_the_same_again(text: str) -> None:
    try:
        shown = str(parse(text))
    except UsageError:  # 64 hexadecimal digits, too long, or a first component that reads as a host
        return
    assert str(parse(shown)) == shown


@given(st.text(alphabet=string.hexdigits + "g:sha256/.", max_size=80))
def test_only_sixty_four_lower_case_digits_make_a_digest(text: str) -> None:
    assert is_digest(text) == bool(re.fullmatch(r"sha256:[0-9a-f]{64}", text))
    assert is_digest(f"sha256:{text}") == bool(re.fullmatch(r"[0-9a-f]{64}", text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", True),
        ("sha256:a0", True),
        ("", False),
        ("sha256:", False),
        ("xyz", False),
        ("A", False),
        ("0" * 65, False),
    ],
)
def test_an_id_may_be_shortened_to_its_first_digits(text: str, expected: bool) -> None:
    assert is_id_prefix(text) is expected

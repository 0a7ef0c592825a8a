"""Read image names as docker does: [host[:port]/]path[:tag][@digest], short names kept short."""

from __future__ import annotations

import re
from functools import cache

from msgspec import Struct

from plugengine.errors import UsageError
from plugengine.images.digest import ALGORITHM, HEX_LENGTH, PREFIX, is_digest, is_hex

DEFAULT_TAG = "latest"
_NAME_BYTES = 255
_DOCKER_HOSTS = frozenset({"docker.io", "index.docker.io"})
_OFFICIAL = "library/"

# The grammar of distribution's reference package, written anew.
_WORD = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"


class Reference(Struct, frozen=True):
    """One name; `str()` gives the form that is stored and shown."""

    repository: str  # as shown: without docker.io/ and library/
    tag: str | None  # None only beside a digest
    digest: str | None = None

    @property
    def name(self) -> str:
        """The repository and the tag: what the store is searched for."""
        return f"{self.repository}:{self.tag or DEFAULT_TAG}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"


def parse(text: str) -> Reference:
    """Parse a name; the tag is "latest" when neither tag nor digest is given.

    Raises:
        UsageError: It does not follow the grammar; says which part.
    """
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _bad(text, "the digest is not sha256: and 64 hexadecimal digits")
    repository, tag = _split_tag(rest)
    if tag is not None and not _pattern(_TAG).fullmatch(tag):
        raise _bad(text, "a tag is made of letters, digits, '_', '.' and '-', at most 128")
    host, path = _split_host(repository)
    if host and not _pattern(_HOST).fullmatch(host):
        raise _bad(text, f"{host!r} is not a host name")
    _check_path(text, path)
    if len(repository) > _NAME_BYTES:
        raise _bad(text, f"longer than {_NAME_BYTES} characters")
    if host in _DOCKER_HOSTS:
        host, path = "", path.removeprefix(_OFFICIAL) if path.count("/") == 1 else path
    if not host:
        _check_no_id(text, path)
    if tag is None and not at:
        tag = DEFAULT_TAG
    return Reference(f"{host}/{path}" if host else path, tag, digest or None)


def is_id_prefix(text: str) -> bool:
    """Tell whether the text may be the beginning of an image id."""
    return is_hex(text.removeprefix(PREFIX)) and len(text.removeprefix(PREFIX)) <= HEX_LENGTH


def _split_tag(text: str) -> tuple[str, str | None]:
    """A colon after the last slash begins a tag, one before it a port."""
    head, colon, tag = text.rpartition(":")
    if colon and "/" not in tag:
        return head, tag
    return text, None


def _split_host(repository: str) -> tuple[str, str]:
    """The first component is a host if it looks like one: a dot, a colon, capitals, or localhost."""
    first, slash, rest = repository.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first or first != first.lower()):
        return first, rest
    return "", repository


def _check_path(text: str, path: str) -> None:
    if _pattern(rf"{_WORD}(?:/{_WORD})*").fullmatch(path):
        return
    if path != path.lower():
        raise _bad(text, "a repository name is lower case")
    if not path:
        raise _bad(text, "the repository name is empty")
    raise _bad(text, "a repository name is made of a-z, 0-9 and single '.', '_', '__' or '-' between them")


def _check_no_id(text: str, path: str) -> None:
    """What is shown must not read as an id, or `sha256:…` and 64 digits would mean two images."""
    if len(path) == HEX_LENGTH and is_hex(path):
        raise _bad(text, "64 hexadecimal digits are an id, not a name")
    if path == ALGORITHM:
        raise _bad(text, f"{ALGORITHM}: begins an id, not a name")


def _bad(text: str, why: str) -> UsageError:
    shown = text if len(text) <= _NAME_BYTES else text[:64] + "…"
    return UsageError(f"image name {shown!r}: {why}")


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)

"""Read environment variables, labels and other NAME=VALUE pairs, from the command line and from files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from plugengine.cli.parse.errors import FlagError

_BYTE_ORDER_MARK = "\ufeff"


def resolve_env(values: Iterable[str], files: Iterable[tuple[str, str]], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return NAME=value of `--env-file` and `-e`; a later one of the same name wins, files come first.

    Args:
        values: Of `-e`; NAME alone takes the caller's variable, and takes the image's away when there is none.
        files: Path and text of each `--env-file`; there NAME alone means nothing when there is none, as with docker.
        environ: The caller's variables.

    Raises:
        FlagError: A variable without a name, or a bad line.
    """
    found: dict[str, str] = {}
    for path, text in files:
        pairs = _resolve(_lines("--env-file", path, text), environ)
        found.update((name, pair) for name, pair in pairs if pair != name)
    for value in values:
        if not value or value.startswith("="):
            raise FlagError("--env", value, "a variable needs a name", example="LANG=C.UTF-8")
    found.update(_resolve(values, environ))
    return tuple(found.values())


def _resolve(values: Iterable[str], environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield names and pairs; the pair of a name without a value is the name."""
    for pair in values:
        name, equals, _value = pair.partition("=")
        if not equals and name in environ:
            yield name, f"{name}={environ[name]}"
        else:
            yield name, pair


def _lines(flag: str, path: str, text: str) -> Iterator[str]:
    """Yield the lines that say something: no quoting, and blanks after the value belong to it, as docker does."""
    for number, raw in enumerate(text.removeprefix(_BYTE_ORDER_MARK).split("\n"), 1):
        line = raw.removesuffix("\r").lstrip()
        if not line or line.startswith("#"):
            continue
        name = line.partition("=")[0]
        if not name:
            raise FlagError(flag, path, f"line {number}: no name before the =")
        if any(character.isspace() for character in name):
            raise FlagError(flag, path, f"line {number}: blanks in the name {name!r}")
        yield line


def resolve_labels(values: Iterable[str], files: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the labels of `--label-file` and `-l`; a key alone has an empty value, a later one wins.

    Raises:
        FlagError: A label without a key, or a bad line.
    """
    found: dict[str, str] = {}
    for path, text in files:
        for line in _lines("--label-file", path, text):
            key, _, value = line.partition("=")
            found[key] = value
    for pair in values:
        key, _, value = pair.partition("=")
        if not key:
            raise FlagError("--label", pair, "a label needs a key", example="team=web")
        found[key] = value
    return found


def parse_pairs(flag: str, values: Iterable[str], *, example: str) -> dict[str, str]:
    """Return the pairs of a flag that wants NAME=VALUE.

    Raises:
        FlagError: No name, or no equals sign.
    """
    found: dict[str, str] = {}
    for pair in values:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise FlagError(flag, pair, "not NAME=VALUE", example=example)
        found[name] = value
    return found


def read_text(flag: str, path: str) -> str:
    """Return the text of a file named by a flag.

    Raises:
        FlagError: It cannot be read, or is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            return stream.read()
    except OSError as exc:
        raise FlagError(flag, path, str(exc.strerror).lower()) from exc
    except UnicodeDecodeError as exc:
        raise FlagError(flag, path, "not UTF-8 text") from exc

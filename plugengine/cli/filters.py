"""Read `--filter`, and tell which containers pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from plugengine.cli.parse.errors import FlagError
from plugengine.state.container_rows import LIVE

if TYPE_CHECKING:
    from plugengine.objects import Container

_LIVE: Final = ("starting", *LIVE)
# What docker calls our states; "running" is also what a filter of that name finds.
STATES: Final[Mapping[str, str]] = {
    "creating": "created",
    "starting": "created",
}


def docker_state(status: str) -> str:
    """Return docker's word for a state."""
    return STATES.get(status, status)


def parse_filters(values: Iterable[str], known: Iterable[str], *, example: str) -> dict[str, list[str]]:
    """Return the values of each key.

    Raises:
        FlagError: Not KEY=VALUE, or an unknown key.
    """
    found: dict[str, list[str]] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if key not in known:
            raise FlagError("--filter", text, f"{key or '(empty)'} is not {', '.join(known)}", example=example)
        if not equals:
            raise FlagError("--filter", text, "not KEY=VALUE", example=example)
        found.setdefault(key, []).append(value)
    return found


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """Tell whether there is a label "key" or "key=value"."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


Test = Callable[["Container", str], bool]


def _has_ancestor(row: Container, wanted: str) -> bool:
    names = (row.image_name, f"{row.image_name}:latest", row.image_name.removesuffix(":latest"))
    return wanted in names or (bool(wanted) and row.image_id.removeprefix("sha256:").startswith(_digits(wanted)))


def _digits(wanted: str) -> str:
    digits = wanted.removeprefix("sha256:")
    # A word such as "beef" would be the beginning of ids by accident; docker wants the twelve digits it shows.
    return digits if len(digits) >= len("0123456789ab") else "-"


CONTAINER_TESTS: Final[Mapping[str, Test]] = {
    "id": lambda row, wanted: row.id.startswith(wanted),
    "name": lambda row, wanted: wanted.strip("^$") == row.name if wanted.startswith("^") else wanted in row.name,
    "status": lambda row, wanted: wanted in (row.status, docker_state(row.status)),
    "label": lambda row, wanted: has_label(row.spec.labels, wanted),
    "ancestor": _has_ancestor,
    "exited": lambda row, wanted: row.status == "exited" and str(row.state.exit_code or 0) == wanted,
    "network": lambda row, wanted: wanted in (row.drivers.joins, row.drivers.network, row.spec.modes.get("net")),
    "volume": lambda row, wanted: any(wanted in (mount.name, mount.target, mount.source) for mount in row.mounts),
    "storage": lambda row, wanted: row.drivers.storage == wanted,
}
_EXAMPLE: Final = "status=exited"


def container_filter(values: Iterable[str]) -> Callable[[Container], bool]:
    """Return the test of all `--filter`: those of one key are alternatives, except labels, which must all be there.

    Raises:
        FlagError: A filter is not understood.
    """
    wanted = parse_filters(values, CONTAINER_TESTS, example=_EXAMPLE)

    def passes(row: Container) -> bool:
        return all(
            (all if key == "label" else any)(CONTAINER_TESTS[key](row, value) for value in alternatives)
            for key, alternatives in wanted.items()
        )

    return passes


def asks_for_all(values: Iterable[str]) -> bool:
    """Tell whether a filter can find containers that do not run, so that they must be looked at."""
    return any(
        text.startswith("exited=") or (text.startswith("status=") and text.removeprefix("status=") not in _LIVE)
        for text in values
    )

"""Ask every installed driver what it is and whether it works here; one that hangs or crashes takes nobody along."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from plugengine import workers
from plugengine.errors import PlugengineError
from plugengine.hookmarks import PROJECT
from plugengine.model import Host, HostPath, Option
from plugengine.plugins import deadlines
from plugengine.plugins.drivers import open_driver
from plugengine.plugins.registry import Entry, Registry, new_manager
from plugengine.workers import Channel, Pool

KINDS: Final = ("storage", "network", "cgroup", "namespace", "runtime")
ALL: Final = (*KINDS, "hooks")
T = TypeVar("T")
_NAME: Final = b"pe-drivers"
_AT_ONCE: Final = 32  # those that hang do nothing meanwhile
_MOST: Final = 20  # reasons that are kept, and characters of each
_LONGEST: Final = 1000


class DriverStatus(Struct, frozen=True, kw_only=True):
    """One line of `pe drivers`."""

    kind: str
    name: str
    distribution: str
    version: str
    supported: bool
    reasons: tuple[str, ...]
    default: bool
    summary: str = ""
    capabilities: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()
    rank: int = 0
    broken: bool = False  # it cannot even say whether it works here
    degraded: str = ""  # which verb did not return in time; such a driver is used when it is named, not by default


class _Request(Struct, frozen=True, kw_only=True):
    host: Host
    entries: tuple[Entry, ...]
    cache: HostPath | None
    degraded: HostPath | None
    calls: HostPath | None


def status(
    registry: Registry,
    host: Host,
    configured: Mapping[str, str],
    *,
    patient: bool = True,
    kinds: Sequence[str] = KINDS,
) -> tuple[DriverStatus, ...]:
    """Return every installed driver with the truth about it; a broken one is a line, never an error.

    They are asked side by side: it takes as long as the slowest of them may. Those whose probe did not return the last
    time are asked once more only if `patient`.

    Raises:
        PlugengineError: There is no room for another process.
    """
    entries = [entry for kind in kinds for entry in registry.entries(kind)]
    lines: dict[Entry, DriverStatus] = {}
    for entry in entries:
        note = registry.degraded.find(entry.group, entry.name, entry.source)
        if note is not None and note.verb == "probe" and not patient:
            lines[entry] = _refused(entry, note.sentence, degraded=note.sentence)
    lines |= _ask(registry, host, [entry for entry in entries if entry not in lines])
    found: list[DriverStatus] = []
    for kind in kinds:
        of_kind = [lines[entry] for entry in registry.entries(kind)]
        best = _best(of_kind, configured.get(kind))
        found += [msgspec.structs.replace(line, default=line is best) for line in of_kind]
    return tuple(found)


def _best(lines: list[DriverStatus], configured: str | None) -> DriverStatus | None:
    if configured is not None:
        return next((line for line in lines if line.name == configured), None)
    usable = (line for line in lines if line.supported)
    return max(usable, key=lambda line: (not line.degraded, line.rank, line.name), default=None)


def _refused(entry: Entry, reason: str, *, degraded: str = "") -> DriverStatus:
    return DriverStatus(
        kind=entry.group,
        name=entry.name,
        distribution=entry.distribution,
        version=entry.version,
        supported=False,
        reasons=(reason,),
        default=False,
        broken=True,
        degraded=degraded,
    )


def side_by_side(items: Iterable[T], distribution: Callable[[T], str]) -> list[tuple[T, ...]]:
    """Return which plugins share a process: each stranger's has its own, and all of ours have one."""
    every = list(items)
    ours = tuple(item for item in every if distribution(item) == PROJECT)
    others = [(item,) for item in every if distribution(item) != PROJECT]
    return [*others, ours] if ours else [*others]


def _ask(registry: Registry, host: Host, entries: Iterable[Entry]) -> dict[Entry, DriverStatus]:
    """Ask drivers in other processes; the first answer about each counts."""
    asked = tuple(entries)
    request = _Request(
        host=host,
        entries=asked,
        cache=registry.cache,
        degraded=registry.degraded.directory,
        calls=registry.calls.directory,
    )
    try:
        channel = workers.start(_NAME, f"{__name__}:main", msgspec.json.encode(request).decode())
    except OSError as exc:
        raise PlugengineError(f"ask the drivers: start a process: {exc.strerror}") from exc
    found: dict[Entry, DriverStatus] = {}
    with channel:
        for number, line in _answers(channel):
            found.setdefault(asked[number], line)
    return {entry: found.get(entry) or _refused(entry, "could not be asked") for entry in asked}


def _answers(channel: Channel) -> Iterator[tuple[int, DriverStatus]]:
    for message in channel.messages():
        yield msgspec.json.decode(message, type=tuple[int, DriverStatus])


def main(channel: Channel, text: str) -> None:
    """Ask the drivers of a request, in a new interpreter: a process for each stranger's, and one for all of ours."""
    request = msgspec.json.decode(text, type=_Request)
    registry = Registry(cache=request.cache, degraded=request.degraded, calls=request.calls)

    def ask(numbers: tuple[int, ...]) -> None:
        for number in numbers:
            _send(channel, number, _status(registry, request.host, request.entries[number]))

    tasks = side_by_side(range(len(request.entries)), lambda number: request.entries[number].distribution)
    for end in Pool(ask, limit_s=deadlines.probe_s(), at_once=_AT_ONCE).run(tasks):
        if end.fault:
            during = registry.calls.take(end.process)
            why = f"the process that asked it {end.fault}" + (f" during {during}" if during else "")
            for number in end.task:
                _send(channel, number, _refused(request.entries[number], why))


def _send(channel: Channel, number: int, line: DriverStatus) -> None:
    reasons = tuple(reason[:_LONGEST] for reason in line.reasons[:_MOST])
    channel.send(msgspec.json.encode((number, msgspec.structs.replace(line, reasons=reasons))))


def _status(registry: Registry, host: Host, entry: Entry) -> DriverStatus:
    try:
        if entry.group == "hooks":
            new_manager(registry, [(entry.group, entry.name)])
            return msgspec.structs.replace(_refused(entry, ""), supported=True, reasons=(), broken=False)
        driver = open_driver(registry, entry.group, entry.name)
        reasons = driver.probe(host)
    except PlugengineError as exc:
        return _refused(entry, exc.message)
    info = driver.info
    return msgspec.structs.replace(
        _refused(entry, ""),
        supported=not reasons,
        reasons=reasons,
        broken=False,
        summary=info.summary,
        capabilities=tuple(sorted(capability.value for capability in info.capabilities)),
        options=info.options,
        rank=info.rank,
        degraded=driver.degraded.sentence if driver.degraded else "",
    )

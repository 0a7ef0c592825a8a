"""What plugins offer by name (image sources, commands, workloads): "module:attribute", imported when it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from plugengine.errors import ConflictError, DriverLoadError, PlugengineError
from plugengine.hookmarks import PROJECT
from plugengine.plugins.deadlines import Expired, seconds, within
from plugengine.plugins.registry import Registry, import_target, new_manager


class Offer(Struct, frozen=True, kw_only=True):
    """One thing offered under a name; nothing of it has been imported."""

    name: str
    target: str  # "module:attribute"
    source: str  # "distribution version"

    def load(self, what: str) -> Any:
        """Import it.

        Raises:
            DriverLoadError: It cannot be imported; the message begins with `what` and names the distribution.
        """
        try:
            return within(seconds("hooks", "info"), lambda: import_target(self.target))
        except (Exception, SystemExit, Expired) as exc:
            reason = f"{type(exc).__name__}: {exc}"
            raise DriverLoadError(
                f"{what} of {self.source}: import {self.target}: {reason}",
                hint=f"reinstall or remove {self.source.split()[0]}; --debug shows where it failed",
            ) from exc


class Offers(Struct, frozen=True, kw_only=True):
    """All that is offered through one hook."""

    found: tuple[Offer, ...]
    faults: tuple[str, ...]  # of plugins that could not be asked, or gave a wrong answer

    def find(self, what: str, name: str) -> Offer | None:
        """Return the one offer of a name, None when there is none.

        Raises:
            ConflictError: Several distributions offer it; none of them is used.
        """
        same = [offer for offer in self.found if offer.name == name]
        if len(same) > 1:
            sources = " and ".join(sorted(offer.source for offer in same))
            raise ConflictError(
                f"{what}: offered by {sources}", hint="uninstall one of them; neither is used until then"
            )
        return same[0] if same else None


def offers(registry: Registry | None, hook: str, bundled: Mapping[str, str]) -> Offers:
    """Ask every installed plugin; one that fails is a fault and keeps nobody from the others.

    Args:
        registry: The installed plugins, None: only what is bundled.
        hook: Its name, such as "pe_commands".
        bundled: The engine's own offers, name to target; they come first.
    """
    found = [Offer(name=name, target=target, source=PROJECT) for name, target in bundled.items()]
    faults: list[str] = []
    if registry is not None:
        for name in registry.names("hooks"):
            try:
                found += _asked(registry, name, hook)
            except PlugengineError as exc:
                faults.append(exc.message)
    return Offers(found=tuple(found), faults=tuple(faults))


def _asked(registry: Registry, name: str, hook: str) -> Iterator[Offer]:
    """Yield what one plugin offers. Raises: PlugengineError naming its distribution."""
    entry = registry.find("hooks", name)
    what = f"plugin {name} of {entry.source}: {hook}"
    manager = new_manager(registry, [("hooks", name)])
    limit_s = seconds("hooks", "info")
    try:
        with registry.calling(entry, hook):
            answers: list[Any] = within(limit_s, getattr(manager.hook, hook))
    except Expired as exc:
        raise DriverLoadError(f"{what}: did not return within {limit_s:g} s") from exc
    except Exception as exc:
        raise DriverLoadError(f"{what}: {type(exc).__name__}: {exc}") from exc
    for answer in answers:
        if not isinstance(answer, Mapping) or not all(_is_offer(*item) for item in answer.items()):
            raise DriverLoadError(f"{what}: returned {answer!r:.80}, not names and 'module:attribute'")
        yield from (Offer(name=word, target=target, source=entry.source) for word, target in answer.items())


def _is_offer(name: Any, target: Any) -> bool:
    return isinstance(name, str) and isinstance(target, str) and all(target.partition(":"))

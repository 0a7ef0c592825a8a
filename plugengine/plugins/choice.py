"""Choose the drivers of a container: the caller's word, else the configuration file, else the best that works here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from plugengine.errors import NotFoundError, NotSupportedError, UsageError
from plugengine.model import Capability, Host, HostPath
from plugengine.plugins.caching import write_quietly
from plugengine.plugins.drivers import Driver, open_driver
from plugengine.plugins.options import written
from plugengine.plugins.probing import KINDS, status
from plugengine.plugins.registry import Registry
from plugengine.spec import ContainerSpec, DriverChoice

CONFIG_VARIABLE: Final = "PLUGENGINE_CONFIG"
DEFAULT_CONFIG: Final = "/etc/plugengine/config.toml"


def read_config(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the drivers named in the `[drivers]` table of the configuration file; none without a file.

    Raises:
        UsageError: The file is not TOML, or names an unknown kind.
    """
    path = environ.get(CONFIG_VARIABLE, DEFAULT_CONFIG)
    try:
        with open(path, "rb") as stream:
            text = stream.read()
    except FileNotFoundError:
        return {}
    import tomllib

    try:
        drivers = tomllib.loads(text.decode()).get("drivers", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise UsageError(f"configuration {path}: {exc}") from exc
    unknown = sorted(set(drivers) - set(KINDS))
    if unknown:
        raise UsageError(f"configuration {path}: [drivers] {unknown[0]}: not a kind", hint=f"kinds: {', '.join(KINDS)}")
    return {kind: str(name) for kind, name in drivers.items()}


class Survey(Struct, frozen=True, kw_only=True):
    """What probing all drivers of a host found; kept until something is installed or the host restarts."""

    key: str
    defaults: dict[str, str]  # by kind
    unsupported: tuple[str, ...]  # "kind name"


def survey(registry: Registry, host: Host, configured: Mapping[str, str], *, cache: HostPath) -> Survey:
    """Return the default driver of each kind that has one, and the drivers that do not work here."""
    key = _survey_key(registry, host, configured)
    try:
        with open(cache, "rb") as stream:
            stored = msgspec.json.decode(stream.read(), type=Survey)
        if stored.key == key:
            return stored
    except (OSError, msgspec.DecodeError):
        pass
    lines = status(registry, host, configured, patient=False)
    found = Survey(
        key=_survey_key(registry, host, configured),  # a driver that hung just now has changed it
        defaults={line.kind: line.name for line in lines if line.default},
        unsupported=tuple(f"{line.kind} {line.name}" for line in lines if not line.supported),
    )
    write_quietly(cache, msgspec.json.encode(found))
    return found


def _survey_key(registry: Registry, host: Host, configured: Mapping[str, str]) -> str:
    return f"{registry.fingerprint()} {host.root} {sorted(configured.items())}"


def choose(
    registry: Registry, host: Host, spec: ContainerSpec, configured: Mapping[str, str], *, cache: HostPath
) -> DriverChoice:
    """Return the drivers of a container.

    Raises:
        NotFoundError, ConflictError: A name the caller or the configuration gave is not installed, or offered twice.
        NotSupportedError: No driver of a kind works here; the message has each one's reason.
        UsageError: An option no driver knows.
    """
    given = {
        "storage": spec.storage,
        "network": spec.network,
        "cgroup": spec.cgroup,
        "namespace": spec.namespace,
        "runtime": spec.runtime,
    }
    asked = {kind: name or configured.get(kind) for kind, name in given.items()}
    for kind, name in asked.items():
        if name is not None:
            _check_installed(registry, kind, name, configured=given[kind] is None)
    known = survey(registry, host, configured, cache=cache)
    for kind, name in asked.items():
        if f"{kind} {name}" in known.unsupported:
            _refuse_unsupported(registry, host, kind, str(name))
    names = {kind: name or known.defaults.get(kind) or _none(registry, host, kind) for kind, name in asked.items()}
    return DriverChoice(
        storage=names["storage"],
        network=names["network"],
        cgroup=names["cgroup"],
        namespace=names["namespace"],
        runtime=names["runtime"],
        storage_options=spec.storage_options,
        network_options=spec.network_options,
        cgroup_options=spec.cgroup_options,
        namespace_options=spec.namespace_options,
        runtime_options=spec.runtime_options,
    )


def _check_installed(registry: Registry, kind: str, name: str, *, configured: bool) -> None:
    try:
        registry.find(kind, name)
    except NotFoundError as exc:
        if not configured:
            raise
        raise NotFoundError(exc.message, hint=f"the configuration file names it; {exc.hint}") from exc


def _refuse_unsupported(registry: Registry, host: Host, kind: str, name: str) -> None:
    """Probe once more, since what was missing may be there by now, and raise with the reasons if it is not."""
    reasons = open_driver(registry, kind, name).probe(host)
    if reasons:
        raise NotSupportedError(f"{kind} driver {name}: does not work on this host", hint="; ".join(reasons))


def _none(registry: Registry, host: Host, kind: str) -> str:
    lines = [line for line in status(registry, host, {}) if line.kind == kind]
    reasons = "; ".join(f"{line.name}: {', '.join(line.reasons)}" for line in lines)
    raise NotSupportedError(f"{kind} driver: none works on this host", hint=reasons or "none is installed")


def check_options(driver: Driver, given: Mapping[str, str]) -> None:
    """Raise UsageError for an option the driver does not have, or a value it cannot have."""
    written(driver.info.options, given, whose=driver.whose)


def explain_missing(capability: Capability, kind: str, name: str, flag: str) -> NotSupportedError:
    """Return the error for a flag that needs a capability the chosen driver does not claim."""
    return NotSupportedError(
        f"{flag}: {kind} driver {name} does not claim {capability.value}", hint=f"choose another with --{kind}"
    )

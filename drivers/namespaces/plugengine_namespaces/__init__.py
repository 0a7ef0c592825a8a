"""Namespace driver `linux`: the kernel's eight namespaces, made, shared or joined; see namespaces(7)."""

from __future__ import annotations

from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.model import Capability, DriverInfo, Host, NamespacePlan, NamespaceRequest, Option

from plugengine_namespaces import planning, support

_INFO = DriverInfo(
    api_version=API_VERSION,
    summary="the kernel's own namespaces",
    capabilities=frozenset({Capability.USER_NAMESPACE, Capability.TIME_NAMESPACE}),
    options=(
        Option(
            name=planning.TIME_OFFSET,
            help="seconds the guest's clocks since boot differ from the host's: N, or monotonic=N,boottime=N",
        ),
    ),
    rank=100,
)


@hookimpl
def pe_namespace_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_namespace_probe(host: Host) -> list[str]:
    """Return what this kernel or process lacks for a container's namespaces."""
    return support.reasons()


@hookimpl
def pe_namespace_plan(request: NamespaceRequest) -> NamespacePlan:
    """Return clone flags, namespaces to join and maps."""
    return planning.plan(request, support.missing)

"""A container engine you can take apart: every kernel-facing part is a driver chosen per container.

The names below are imported at first use, so that `import plugengine` costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing costs as much as the interpreter's own start
if TYPE_CHECKING:
    from typing import Any

    from plugengine.bundle import Rlimit
    from plugengine.engine import Engine
    from plugengine.errors import (
        CommandError,
        CommandNotFoundError,
        ConflictError,
        DriverError,
        DriverLoadError,
        ImageError,
        NoSpaceError,
        NotExecutableError,
        NotFoundError,
        NotSupportedError,
        PlugengineError,
        StateError,
        UsageError,
    )
    from plugengine.hookspecs import API_VERSION, hookimpl, hookspec
    from plugengine.images.store import ImageStore
    from plugengine.model import (
        Attachment,
        Capability,
        CgroupEntry,
        CgroupRequest,
        CgroupStats,
        Change,
        Deviation,
        DeviceRate,
        DeviceRule,
        DriverInfo,
        Event,
        GuestPath,
        Host,
        HostPath,
        IdRange,
        Interface,
        Limits,
        Mount,
        NamespacePlan,
        NamespaceRequest,
        Network,
        NetworkRequest,
        NetworkStats,
        Option,
        Port,
        Record,
        Rootfs,
        Server,
        Setting,
        Settings,
        StorageRequest,
        Upper,
        Usage,
        UserMap,
    )
    from plugengine.objects import (
        Connection,
        Container,
        ContainerState,
        ContainerStats,
        LiveLink,
        LiveNeighbour,
        LiveNetwork,
        LiveRoute,
        LiveRule,
        MountPoint,
        NetworkDetails,
    )
    from plugengine.operations.inspect import ProcessLine
    from plugengine.operations.recovery import Finding
    from plugengine.plugins.probing import DriverStatus
    from plugengine.spec import ContainerSpec, Device, ExecSpec, Image, ImageConfig, VolumeMount
    from plugengine.streams.attach_client import Outcome, Streams
    from plugengine.streams.logs import LogLine
    from plugengine.volumes import Volume

__all__ = [
    "API_VERSION",
    "Attachment",
    "Capability",
    "CgroupEntry",
    "CgroupRequest",
    "CgroupStats",
    "Change",
    "CommandError",
    "CommandNotFoundError",
    "ConflictError",
    "Connection",
    "Container",
    "ContainerSpec",
    "ContainerState",
    "ContainerStats",
    "Deviation",
    "Device",
    "DeviceRate",
    "DeviceRule",
    "DriverChoice",
    "DriverError",
    "DriverInfo",
    "DriverLoadError",
    "DriverStatus",
    "Engine",
    "Event",
    "ExecSpec",
    "Finding",
    "GuestPath",
    "Host",
    "HostPath",
    "IdRange",
    "Image",
    "ImageConfig",
    "ImageError",
    "ImageStore",
    "Interface",
    "Limits",
    "LiveLink",
    "LiveNeighbour",
    "LiveNetwork",
    "LiveRoute",
    "LiveRule",
    "LogLine",
    "Mount",
    "MountPoint",
    "NamespacePlan",
    "NamespaceRequest",
    "Network",
    "NetworkDetails",
    "NetworkRequest",
    "NetworkStats",
    "NoSpaceError",
    "NotExecutableError",
    "NotFoundError",
    "NotSupportedError",
    "Option",
    "Outcome",
    "PlugengineError",
    "Port",
    "ProcessLine",
    "Record",
    "Rlimit",
    "Rootfs",
    "Server",
    "Setting",
    "Settings",
    "StateError",
    "StorageRequest",
    "Streams",
    "Upper",
    "Usage",
    "UsageError",
    "UserMap",
    "Volume",
    "VolumeMount",
    "hookimpl",
    "hookspec",
]

_HOMES = {
    "plugengine.spec": (
        "ContainerSpec",
        "Device",
        "DriverChoice",
        "ExecSpec",
        "Image",
        "ImageConfig",
        "VolumeMount",
    ),
    "plugengine.bundle": ("Rlimit",),
    "plugengine.engine": ("Engine",),
    "plugengine.images.store": ("ImageStore",),
    "plugengine.hookspecs": ("API_VERSION", "hookimpl", "hookspec"),
    "plugengine.streams.attach_client": ("Outcome", "Streams"),
    "plugengine.objects": (
        "Connection",
        "Container",
        "ContainerState",
        "ContainerStats",
        "LiveLink",
        "LiveNeighbour",
        "LiveNetwork",
        "LiveRoute",
        "LiveRule",
        "MountPoint",
        "NetworkDetails",
    ),
    "plugengine.operations.inspect": ("ProcessLine",),
    "plugengine.operations.recovery": ("Finding",),
    "plugengine.plugins.probing": ("DriverStatus",),
    "plugengine.streams.logs": ("LogLine",),
    "plugengine.volumes": ("Volume",),
}


def __getattr__(name: str) -> Any:
    """Import a public name at first use; see module `__getattr__` in PEP 562."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    home = next((module for module, names in _HOMES.items() if name in names), "")
    if not home:
        home = "plugengine.errors" if name.endswith("Error") else "plugengine.model"
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)

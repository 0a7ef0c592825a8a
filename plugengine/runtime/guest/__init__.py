"""Plan the inside of a container and its processes; nothing here forks, mounts or changes the host."""

from plugengine.runtime.guest.layout import GuestPlan, plan_guest
from plugengine.runtime.guest.process import (
    ProcessPlan,
    ProcessRequest,
    capability_set,
    may_trace,
    plan_exec,
    plan_process,
    signal_number,
)
from plugengine.runtime.guest.request import GuestRequest, ResolvedMount
from plugengine.runtime.guest.rlimits import raise_rlimits
from plugengine.runtime.guest.sources import Sources, open_sources

__all__ = [
    "GuestPlan",
    "GuestRequest",
    "ProcessPlan",
    "ProcessRequest",
    "ResolvedMount",
    "Sources",
    "capability_set",
    "may_trace",
    "open_sources",
    "plan_exec",
    "plan_guest",
    "plan_process",
    "raise_rlimits",
    "signal_number",
]

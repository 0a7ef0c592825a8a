"""Options as the core hands them to drivers: every one of them, as a value of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plugengine.model import DriverInfo
from plugengine.plugins.options import typed


def values(info: DriverInfo, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a value for every option of a driver, for what somebody wrote."""
    return typed(info.options, given or {}, whose="driver")

"""The driver against plugengine's conformance kit. Needs root, and a kernel of one's own."""

from __future__ import annotations

import pytest

from plugengine.testing import RuntimeConformance


class TestRunc(RuntimeConformance):
    """Every case of the kit for runtime drivers."""

    @pytest.fixture
    def driver(self) -> str:
        """Return the name it is installed by."""
        return "runc"

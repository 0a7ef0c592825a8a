"""A mount namespace for these tests."""

from __future__ import annotations

from tests.system.kernel.conftest import in_mount_namespace as in_mount_namespace

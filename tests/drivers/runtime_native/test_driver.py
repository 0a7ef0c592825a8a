"""What the driver says of itself, and of hosts it cannot run on."""

from __future__ import annotations

from plugengine_runtime_native import pe_runtime_info, pe_runtime_probe

from plugengine.model import Capability, Host, HostPath


def host(kernel: tuple[int, int]) -> Host:
    return Host(root=HostPath("/"), run_root=HostPath("/"), kernel=kernel)


def test_it_claims_all_that_a_runtime_can() -> None:
    claimed = {Capability.USER_NAMESPACE, Capability.TIME_NAMESPACE, Capability.INIT, Capability.ID_MAPPED_MOUNTS}
    assert pe_runtime_info().capabilities == claimed


def test_an_old_kernel_is_a_reason() -> None:
    assert pe_runtime_probe(host((5, 10))) == ["Linux 5.10: older than 5.12"]
    assert pe_runtime_probe(host((5, 12))) == []

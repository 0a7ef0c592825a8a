"""Namespace drivers that are wrong on purpose."""

from __future__ import annotations

import itertools
from typing import Any

import plugengine_namespaces as linux
from msgspec.structs import replace

from plugengine.errors import UsageError
from plugengine.kernel.process import CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS
from plugengine.model import DriverInfo, NamespacePlan, NamespaceRequest, UserMap
from tests.kit.spoiling import Wrong


def without(flag: int) -> Any:
    """Leave out one namespace."""

    def pe_namespace_plan(request: NamespaceRequest) -> NamespacePlan:
        plan = linux.pe_namespace_plan(request)
        return replace(plan, clone_flags=plan.clone_flags & ~flag)

    return pe_namespace_plan


def shifts_the_map(request: NamespaceRequest) -> NamespacePlan:
    plan = linux.pe_namespace_plan(request)
    if plan.user_map is None:
        return plan
    uids = tuple(replace(one, host=one.host + 1) for one in plan.user_map.uids)
    return replace(plan, user_map=UserMap(uids=uids, gids=plan.user_map.gids))


def drops_the_map(request: NamespaceRequest) -> NamespacePlan:
    return linux.pe_namespace_plan(replace(request, user_map=None))


def claims_nothing() -> DriverInfo:
    return replace(linux.pe_namespace_info(), capabilities=frozenset())


def joins_nobody(request: NamespaceRequest) -> NamespacePlan:
    modes = {kind: "private" if mode.startswith("container:") else mode for kind, mode in request.modes.items()}
    return linux.pe_namespace_plan(replace(request, modes=modes))


def forgets_the_cgroup_namespace(request: NamespaceRequest) -> NamespacePlan:
    return replace(linux.pe_namespace_plan(request), unshare_flags=0)


def ignores_the_offset(request: NamespaceRequest) -> NamespacePlan:
    return replace(linux.pe_namespace_plan(request), time_offsets=())


def changes_its_mind() -> Any:
    count = itertools.count()

    def pe_namespace_plan(request: NamespaceRequest) -> NamespacePlan:
        plan = linux.pe_namespace_plan(request)
        return replace(plan, time_offsets=(("boottime", next(count)),))

    return pe_namespace_plan


def takes_nonsense(request: NamespaceRequest) -> NamespacePlan:
    try:
        return linux.pe_namespace_plan(request)
    except UsageError:
        return linux.pe_namespace_plan(replace(request, modes={}))


def shares_mounts(request: NamespaceRequest) -> NamespacePlan:
    if request.modes.get("mnt") != "host":
        return linux.pe_namespace_plan(request)
    return without(CLONE_NEWNS)(replace(request, modes={}))  # type: ignore[no-any-return]


WRONG = [
    Wrong("shares_ipc", linux, "namespace.ipc.private", "queues seen inside",
          {"pe_namespace_plan": without(CLONE_NEWIPC)}),
    Wrong("shares_uts", linux, "namespace.uts.private", "the name inside, and outside",
          {"pe_namespace_plan": without(CLONE_NEWUTS)}),
    Wrong("shares_pids", linux, "namespace.pid.private", "own pid, parent, pids seen",
          {"pe_namespace_plan": without(CLONE_NEWPID)}),
    Wrong("shares_mounts", linux, "namespace.refuse.shared-mounts", "shares the host's",
          {"pe_namespace_plan": shares_mounts}),
    Wrong("shifts_the_map", linux, "namespace.user.map", "400001", {"pe_namespace_plan": shifts_the_map}),
    Wrong("drops_the_map", linux, "namespace.user.not-claimed", "a map of user ids was accepted",
          {"pe_namespace_info": claims_nothing, "pe_namespace_plan": drops_the_map}),
    Wrong("joins_nobody", linux, "namespace.join.same", "namespace joined", {"pe_namespace_plan": joins_nobody}),
    Wrong("forgets_the_cgroup_namespace", linux, "namespace.cgroup.private", "groups seen that are not the root",
          {"pe_namespace_plan": forgets_the_cgroup_namespace}),
    Wrong("ignores_the_offset", linux, "namespace.time.offset", "s ahead, not 100000",
          {"pe_namespace_plan": ignores_the_offset}),
    Wrong("changes_its_mind", linux, "namespace.plan.pure", "the second plan",
          {"pe_namespace_plan": changes_its_mind()}),
    Wrong("takes_nonsense", linux, "namespace.refuse.nonsense", "was accepted", {"pe_namespace_plan": takes_nonsense}),
]  # fmt: skip

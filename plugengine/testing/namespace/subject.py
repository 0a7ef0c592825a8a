"""The namespace driver under test, and processes born as its plans say."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from plugengine.kernel.credentials import setgroups, setresgid, setresuid
from plugengine.kernel.mount import MS_PRIVATE, MS_REC, mount
from plugengine.kernel.process import CLONE_NEWNS, clone3, unshare
from plugengine.model import Capability, Host, HostPath, IdRange, NamespacePlan, NamespaceRequest, UserMap
from plugengine.mounts import write_maps
from plugengine.namespaces import joined
from plugengine.plugins.drivers import NamespaceDriver
from plugengine.testing.children import Child

KINDS: Final = ("pid", "net", "mnt", "uts", "ipc", "cgroup", "user", "time")
PRIVATE_BY_DEFAULT: Final = ("pid", "net", "mnt", "uts", "ipc", "cgroup")
FIRST_HOST_ID: Final = 400_000
MAP: Final = UserMap(
    uids=(IdRange(guest=0, host=FIRST_HOST_ID, size=1000),),
    gids=(IdRange(guest=0, host=FIRST_HOST_ID + 5000, size=2000),),
)


class Subject:
    """Makes processes as the engine does: join, clone, write the maps, unshare the cgroup namespace.

    Args:
        driver: The driver under test.
        host: Roots below `scratch`.
        scratch: Directory of this case.
        options: The user's, given in every request.
    """

    def __init__(self, driver: NamespaceDriver, host: Host, scratch: HostPath, options: Mapping[str, str]) -> None:
        self.driver: NamespaceDriver = driver
        self.host: Host = host
        self.scratch: HostPath = scratch
        self.options: dict[str, str] = dict(options)
        self.guests: list[Guest] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes of the case."""
        for guest in self.guests:
            guest.end()

    def leaks(self) -> list[str]:
        """Return nothing: a namespace ends with its last process, and processes are looked for by the runner."""
        return []

    def claims(self, capability: Capability) -> bool:
        """Tell whether the driver claims a capability."""
        return capability in self.driver.info.capabilities

    def request(
        self,
        modes: Mapping[str, str] | None = None,
        *,
        user_map: UserMap | None = None,
        options: Mapping[str, str] | None = None,
    ) -> NamespaceRequest:
        """Return a request with these modes."""
        return NamespaceRequest(
            container_id="c" * 64, modes=modes or {}, user_map=user_map, options={**self.options, **(options or {})}
        )

    def plan(
        self,
        modes: Mapping[str, str] | None = None,
        *,
        user_map: UserMap | None = None,
        options: Mapping[str, str] | None = None,
    ) -> NamespacePlan:
        """Return the driver's plan for these modes."""
        return self.driver.plan(self.request(modes, user_map=user_map, options=options))

    def start(self, act: Callable[[], object], plan: NamespacePlan) -> Guest:
        """Run `act` in a process born as the plan says."""
        self.guests.append(Guest(act, plan))
        return self.guests[-1]

    def ask(self, act: Callable[[], object], plan: NamespacePlan) -> Any:
        """Run `act` in a process born as the plan says; return its JSON-able value.

        Raises:
            Failure: It raised.
        """
        return self.start(act, plan).child.result()


class Guest:
    """A process born as a plan says; `pid` is the host's."""

    def __init__(self, act: Callable[[], object], plan: NamespacePlan) -> None:
        ready, go = os.pipe()

        def enter_and_act() -> object:
            os.close(go)
            os.read(ready, 1)  # until the maps are written
            os.close(ready)
            if plan.user_map is not None:
                setgroups([])
                setresgid(0, 0, 0)
                setresuid(0, 0, 0)
            if plan.unshare_flags:
                unshare(plan.unshare_flags)
            if plan.clone_flags & CLONE_NEWNS:
                mount(None, "/", None, MS_REC | MS_PRIVATE, None)
            return act()

        try:
            with joined(plan) as flags:
                self.child: Child = Child(enter_and_act, fork=lambda: clone3(flags, pidfd=False)[0])
            if plan.user_map is not None:
                write_maps(self.child.pid, plan.user_map)
        finally:
            os.close(ready)
            os.close(go)

    @property
    def pid(self) -> int:
        """Its process id on the host."""
        return self.child.pid

    def end(self) -> None:
        """Kill and reap it."""
        if not self.child.ended:
            self.child.kill()
            self.child.status()


def identities(pid: int | str = "self") -> dict[str, str]:
    """Return the namespaces a process is in, by kind; those this kernel has."""
    found = {}
    for kind in KINDS:
        try:
            found[kind] = os.readlink(f"/proc/{pid}/ns/{kind}")
        except FileNotFoundError:
            continue
    return found

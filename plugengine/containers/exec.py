"""Run one more process in a running container, from its monitor."""

from __future__ import annotations

from plugengine.bundle import Spawn
from plugengine.containers.plan import StartPlan
from plugengine.containers.steps import Live
from plugengine.runtime.handle import Handle
from plugengine.runtime.process import identify, plan_exec
from plugengine.spec import ContainerSpec, ExecSpec, ImageConfig
from plugengine.streams.stdio import Pipes


def run_exec(live: Live, plan: StartPlan, spec: ContainerSpec, config: ImageConfig, asked: ExecSpec) -> Handle:
    """Run a command and return it.

    Raises:
        CommandNotFoundError, NotExecutableError, PlugengineError: It does not run.
    """
    bundle = plan.create.bundle
    planned = plan_exec(spec, config, asked, hostname=plan.hostname, platform=bundle.process.platform)
    process = identify(planned, bundle.root, bundle.namespaces.user_map)
    entry = None if live.cgroup is None else live.drivers.cgroup.entry(live.cgroup)

    pipes = Pipes(tty=process.terminal, interactive=asked.interactive)
    try:
        spawn = Spawn(stdio=pipes.guest, cgroup=entry)
        made = live.drivers.runtime.exec(plan.create.request, live.first.record, process, spawn)
        handle = Handle(made, pipes, live.drivers.runtime.name)
    except BaseException:
        pipes.close()
        raise
    pipes.close_guest_ends()
    return handle

"""The life of a container's first process, from birth to exec."""

from __future__ import annotations

import os
from typing import NoReturn

from plugengine.kernel import process as kernel_process

from plugengine_runtime_native.child import reaper, start
from plugengine_runtime_native.child.finish import Finisher
from plugengine_runtime_native.child.mounts import Builder
from plugengine_runtime_native.child.report import (
    EXIT_FAILED,
    STAGE_CGROUP,
    STAGE_CGROUP_NAMESPACE,
    STAGE_FORK,
    STAGE_START,
    STAGE_USER_NAMESPACE,
    Reporter,
    exit_code,
)
from plugengine_runtime_native.inside import InsidePlan
from plugengine_runtime_native.prepared import Prepared
from plugengine_runtime_native.sources import Sources


def become_init(
    plan: InsidePlan,
    process: Prepared,
    *,
    sources: Sources,
    go_fd: int,
    report_fd: int,
    stdio: tuple[int, int, int] | None = None,
    unshare_flags: int = 0,
    enter: tuple[int, ...] = (),
) -> NoReturn:
    """Build the inside of the container and become its command; called in the child of clone3, never returns.

    The child is not dumpable and dies with its parent; it closes every descriptor but those given here.

    Args:
        plan: The inside, carried out once the parent has written a byte to the other end of `go_fd`.
        process: The command. With `tty` it gets a terminal of the container, and the parent its master.
        sources: Of `sources.open_sources(plan)`, opened in the parent before the clone.
        go_fd: Reading end of a pipe; its end means that the parent is gone. By the byte the parent has written the
            id maps, moved us to our cgroup and connected the network.
        report_fd: One end of a SOCK_SEQPACKET socketpair for `report.read_report`; exec closes it.
        stdio: Standard input, output and error; None leaves the parent's, or with `tty` is not looked at.
        unshare_flags: CLONE_NEWCGROUP, once we are in the cgroup that is to be the root.
        enter: Files of `CgroupEntry.tasks`, opened in the parent.
    """
    stage = STAGE_START
    failure: BaseException
    reporter: Reporter | None = None
    builder: Builder | None = None
    finisher: Finisher | None = None
    try:
        reporter = Reporter(report_fd)
        streams = (0, 1, 2) if stdio is None else stdio
        start.isolate((*streams, go_fd, report_fd, *enter, *sources.descriptors()))
        stage = STAGE_CGROUP
        start.enter_cgroups(enter)
        stage = STAGE_START
        ours = start.own_program()
        start.wait(go_fd)
        if process.has_user_namespace:
            stage = STAGE_USER_NAMESPACE
            start.become_root()
        if unshare_flags:
            stage = STAGE_CGROUP_NAMESPACE
            kernel_process.unshare(unshare_flags)
        builder = Builder(plan, sources, reporter)
        builder.run()
        stage = STAGE_FORK
        terminal, builder = builder.terminal, None
        if process.init:
            _fork_command(process, stdio, terminal)
        finisher = Finisher(process, stdio, terminal, ours)
        finisher.settle()
        finisher.find()
        finisher.launch()
    except BaseException as exc:  # noqa: BLE001 - nothing above us could handle it: this is a forked child
        failure = exc
    if builder is not None:
        stage = builder.stage
    elif finisher is not None:
        stage = finisher.stage
    if reporter is None:
        os._exit(EXIT_FAILED)
    reporter.failed(stage, failure)
    os._exit(exit_code(stage, failure))


def _fork_command(process: Prepared, stdio: tuple[int, int, int] | None, terminal: int) -> None:
    """Become the command's process; the one we were stays as init."""
    reaper.block_signals()
    pid, _pidfd = kernel_process.clone3(0, pidfd=False)
    if pid:
        reaper.reap(pid, process, stdio, terminal)
    start.protect()

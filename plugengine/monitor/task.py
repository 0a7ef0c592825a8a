"""What a monitor is told: by argument where it is forked for one container, else in a memory file."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from msgspec import Struct

from plugengine.containers.plan import StartPlan
from plugengine.kernel.process import ProcessId
from plugengine.state.container_rows import ContainerRow

_NAME = "pe-task"


class Task(Struct, frozen=True, kw_only=True):
    """One start of one container, by the caller who owns it until the monitor takes it over."""

    row: ContainerRow  # status "starting"
    plan: StartPlan
    owner: ProcessId  # the caller
    attach: bool  # connect the caller's socket to the container's streams from the first byte on
    debug: bool  # send a "log" event for each step


def write(task: Task) -> int:
    """Return a memory file with the task, however many arguments the container has; memfd_create(2)."""
    fd = os.memfd_create(_NAME, os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as stream:
            stream.write(msgspec.msgpack.encode(task))
    except BaseException:
        os.close(fd)
        raise
    return fd


def read(fd: int) -> Task:
    """Return the task of a memory file, which is closed."""
    with open(fd, "rb") as stream:
        stream.seek(0)
        return msgspec.msgpack.decode(stream.read(), type=Task, dec_hook=_rebuild)


def _rebuild(kind: type[Any], found: Any) -> Any:
    """Make the one value in a task that msgspec knows as a tuple only."""
    if kind is not ProcessId:
        raise TypeError(f"{kind.__name__}: not part of a task")
    return ProcessId(*found)

"""Run the benchmark in namespaces of its own, and leave nothing of it behind.

The supervisor stays outside and owns the temporary directory; the measuring process runs below `unshare` in
new network, mount and pid namespaces. When the init of that pid namespace dies, the kernel kills every
process below it, the mounts go with their namespace, and only files are left to remove.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WORK_VARIABLE = "PE_BENCH_WORK"
PREFIX = "pe-bench-"


def supervise(argv: Sequence[str], directory: Path) -> int:
    """Run `argv` (a command that calls `enter`) isolated; remove what it made, however it ends."""
    sweep(directory)
    work = Path(tempfile.mkdtemp(prefix=PREFIX, dir=directory))
    lock = os.open(work, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # setpriv: the kernel ends the run when this supervisor is killed; unshare --kill-child passes it on.
    command = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
    ]
    command += ["--mount-proc", "--propagation", "private", "--", *argv]
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    process = None
    try:
        environment = {**os.environ, WORK_VARIABLE: str(work)}
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        return process.wait()
    except KeyboardInterrupt:
        print("interrupted; removing what was made", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        if process is not None:
            process.kill()
            process.wait()
        remove(work)


def sweep(directory: Path) -> None:
    """Remove what runs left whose supervisor was killed; a living one holds a lock on its directory."""
    for work in directory.glob(f"{PREFIX}*"):
        lock = os.open(work, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            remove(work)
        finally:
            os.close(lock)


def remove(work: Path) -> None:
    """Remove the files of an ended run; its mounts went with their namespace."""
    shutil.rmtree(work, ignore_errors=True)
    if work.exists():
        print(f"{work} could not be removed completely", file=sys.stderr)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def enter() -> Path:
    """Finish the set-up inside the namespaces; return the working directory, in a child of init."""
    work = Path(os.environ[WORK_VARIABLE])
    worker = os.fork()
    if worker != 0:
        os._exit(_reap_until(worker))
    return work


def _reap_until(worker: int) -> int:
    """Be the init of the pid namespace: collect orphans (servers) until the worker ends."""
    while True:
        pid, status = os.wait()
        if pid == worker:
            return os.waitstatus_to_exitcode(status) & 0xFF

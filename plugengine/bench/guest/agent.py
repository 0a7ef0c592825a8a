"""Run one workload's function inside a container (or below a root) and print what it measured as one line of JSON."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any


class Job:
    """What a workload's function gets; `with job.timed():` is what counts, all else is preparation.

    Attributes:
        area: Directory of the image with the files the workload was promised; the current directory.
        work: An empty directory of the writable layer.
        sizes: How much of everything.
    """

    def __init__(self, area: str, work: str, sizes: Mapping[str, int]) -> None:
        self.area = area
        self.work = work
        self.sizes = sizes
        self.elapsed_s = 0.0

    def timed(self) -> Timed:
        """Return a context whose duration is added to the result."""
        return Timed(self)

    def files(self) -> Iterator[str]:
        """Yield the paths of the files of the area, as most programs find them."""
        return _walk(".")


class Timed:
    """Adds the time between its beginning and its end to a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._begin = 0.0

    def __enter__(self) -> None:
        """Begin."""
        self._begin = time.perf_counter()

    def __exit__(self, *_exc: object) -> None:
        """End."""
        self._job.elapsed_s += time.perf_counter() - self._begin


def _walk(top: str) -> Iterator[str]:
    with os.scandir(top) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)
            else:
                yield entry.path


def main(request: Mapping[str, Any]) -> int:
    """Carry out a request; see `plugengine.bench.targets.request`."""
    # The default action: where a file server hangs, only a fatal signal ends the call that waits for it.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(request["deadline_s"]))
    function = _load(str(request["script"]), str(request["function"]))
    if request["root"] != "/":
        os.chroot(str(request["root"]))
    job = Job(str(request["area"]), str(request["work"]), request["sizes"])
    try:
        os.makedirs(job.work)
        os.chdir(job.area if os.path.isdir(job.area) else job.work)
        returned = function(job)
        value = job.elapsed_s if returned is None else float(returned)
        answer: dict[str, Any] = {"value": value}
    except Exception as exc:  # noqa: BLE001 - whatever it is belongs into the report
        answer = {"error": str(exc) or type(exc).__name__}
    os.chdir("/")
    shutil.rmtree(job.work, ignore_errors=True)
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    return 0


def _load(script: str, function: str) -> Callable[[Job], float | None]:
    spec = importlib.util.spec_from_file_location("workload", script)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - the name ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[Job], float | None] = getattr(module, function)
    return found


if __name__ == "__main__":
    if sys.argv[1:] == ["wait"]:
        signal.pause()
    sys.exit(main(json.loads(sys.argv[1])))

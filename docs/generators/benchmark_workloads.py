"""Write docs/benchmark-workloads.md from the workloads themselves: `python docs/generators/benchmark_workloads.py`."""

from __future__ import annotations

import os
import sys
from typing import Final

from plugengine.bench import catalog
from plugengine.bench.workload import Inside, Size, Workload
from plugengine.bench.workloads import BUNDLED

TARGET: Final = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "benchmark-workloads.md")
_HEAD: Final = """\
# What `pe bench storage` measures

Written by `docs/generators/benchmark_workloads.py` from the classes in `plugengine/bench/workloads/`, whose
numbers these are: those of a full run, and in brackets those of `--quick` where they differ.

## Where

The image is `--image` (default `host:python`, this machine's own Python) with a layer above it for each set of
files the workloads use; for a `host:` image also with this machine's git and dpkg. Every driver shows the same
layers, from one layer store on the filesystem of `--directory`, or on one made for the run with `--filesystem`.

Most workloads are functions of a script that runs **inside a container** of the driver, started as any other: same
monitor, seccomp filter, control group. The script does the timing and gives one number back; its start, its
preparation and its cleaning up are not in it. With `--direct` the same script runs on the driver's mount in a mount
namespace of its own, without a container.

**plain**, the plain directory on the same filesystem, is the limit. It holds a copy of the image and is bound into
a container of the default driver, where the script changes its root to it: the system calls pass the same filters
and are accounted for in the same way, and only the filesystem differs. What only drivers do is not measured there.

Life-cycle workloads call the driver's verbs and the engine's own steps, in the process that measures.

## How

* A workload that changes files of the image gets a container made anew for each value. What it writes besides lies
  in a directory of its own, removed afterwards.
* *Cold*: the container is stopped and started, which mounts anew, and the kernel's caches are dropped; where that
  is not permitted the row says so. All others have done the work once before they are timed, or work on new files.
* Dirty data is written back before each value is taken.
* A driver that fails or whose server dies loses the cell of that workload, gets a new container, and goes on.
* Reads and writes are Python's system calls in pieces of a mebibyte or on blocks of 4 KiB. With `--direct`, fio
  does four of them where it is installed; the row names it. Inside containers it doesn't: its libraries are the
  host's, and many.
* `memory` is the proportional set size of the file server, if there is one, and what the slabs of the whole machine
  grew by, which on a busy machine is noise. The server is forked from the process that measures, which is larger than
  a monitor.
"""
_WRITING: Final = """\
## More workloads

A distribution offers its own through the hook [`pe_bench_workloads`](hooks.md#pe_bench_workloads) of the entry-point
group `plugengine.hooks`:

```python
import os
from plugengine.bench.workload import Inside
from plugengine.hookspecs import hookimpl


@hookimpl
def pe_bench_workloads():
    return {"symlinks": "acme_bench:Symlinks"}


class Symlinks(Inside):
    name = "symlinks"
    title = "make symbolic links"
    sentence = "make {links:,} symbolic links"
    group = "acme"
    full = {"links": 2_000}
    quick = {"links": 300}
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "acme_guest.py")
    function = "symlinks"
```

and in `acme_guest.py`, which may use the standard library only:

```python
import os


def symlinks(job):
    with job.timed():
        for number in range(job.sizes["links"]):
            os.symlink("nowhere", f"{job.work}/{number}")
```

The function returns the value in the workload's unit, or None for the seconds it timed. Files it is to find in the
image are written by the method `build` into the directory of its `area`, which is the current directory when it is
called. A workload that works on the driver itself is a `plugengine.bench.workload.Workload` with a method `take`.
"""


def render() -> str:
    """Return the page."""
    workloads = [catalog.load(name, target) for name, target in BUNDLED.items()]
    parts = [_HEAD]
    for group in dict.fromkeys(each.group for each in workloads):
        parts.append(f"## {group.capitalize()}\n")
        rows = [_row(each) for each in workloads if each.group == group]
        parts.append("\n".join(["| name | what is done | unit | |", "|---|---|---|---|", *rows, ""]))
    return "\n".join([*parts, _WRITING])


def _row(workload: Workload) -> str:
    full = workload.row(Size.FULL)
    quick = {name: value for name, value in workload.quick.items() if value != workload.full[name]}
    shown = ", ".join(f"{name} {value:,}" for name, value in quick.items() if f"{{{name}" in workload.sentence)
    words = [
        "cold" if workload.cold else "",
        "fresh container" if isinstance(workload, Inside) and workload.changes else "",
        "" if workload.limit else "drivers only",
        "fio with `--direct`" if getattr(workload, "job", ()) else "",
    ]
    sentence = f"{full.sentence}{f' ({shown})' if shown else ''}"
    return f"| `{full.name}` | {sentence} | {full.unit} | {', '.join(filter(None, words))} |"


if __name__ == "__main__":
    with open(TARGET, "w", encoding="utf-8") as page:
        page.write(render())
    sys.stderr.write(f"wrote {TARGET}\n")

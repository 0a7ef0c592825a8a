"""Reads and writes by fio(1), on mounts without a container: its libraries are the host's, and many."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

from plugengine.bench.image import HOME, WORK
from plugengine.bench.workload import Inside
from plugengine.errors import PlugengineError

if TYPE_CHECKING:
    from plugengine.bench.fixture import Stand
    from plugengine.bench.targets import DirectPlace

_PROGRAM: Final = "fio"
_NS: Final = 1_000_000_000
# One job in fio's own process that goes through the page cache, as the function of the script does.
_ALWAYS: Final = ("--name=bench", "--thread", "--ioengine=sync", "--invalidate=0", "--output-format=json")


class WithFio(Inside):
    """A function of a script that fio stands in for where there is no container and it is installed.

    Attributes:
        job: Words for fio; "{file}" and the sizes are filled in.
        writes: It writes a new file, else it reads the file of the area.
    """

    job: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[bool] = False

    def take(self, stand: Stand, sizes: Mapping[str, int]) -> float:
        """Let fio do it, or the function."""
        if not (stand.around.direct and version()):
            return super().take(stand, sizes)
        place = stand.direct_place(self.name)
        path = f"{WORK}/fio" if self.writes else f"{HOME}/{self.area}/data"
        if not self.writes:
            _read(place, path)
        words = [word.format(file=place.host_path(path), **sizes) for word in self.job]
        said = place.run_program([_PROGRAM, *_ALWAYS, *words])
        return self._value(said)

    def _value(self, said: str) -> float:
        """Return the rate, from the mean latency: fio counts its own running time in milliseconds only."""
        job = json.loads(said[said.index("{") :])["jobs"][0]
        if job["error"]:
            raise PlugengineError(f"fio: error {job['error']}")
        part: Mapping[str, Any] = job["write" if self.writes else "read"]
        elapsed_s = part["total_ios"] * part["lat_ns"]["mean"] / _NS
        rate: float = (part["io_bytes"] if self.unit == "B/s" else part["total_ios"]) / elapsed_s
        return rate

    def tool(self, *, direct: bool) -> str:
        """Say whether it is fio."""
        return version() if direct else ""


@cache
def version() -> str:
    """Return the installed fio with its version; empty without one."""
    if shutil.which(_PROGRAM) is None:
        return ""
    done = subprocess.run([_PROGRAM, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _read(place: DirectPlace, path: str) -> None:
    with place.open(path) as fd, open(fd, "rb", closefd=False) as stream:
        while stream.read(1 << 20):
            pass

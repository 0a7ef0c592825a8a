"""What a workload is: a small class that says what is done, how much of it, and how one value is taken.

There are two forms. An `Inside` workload names a function of a self-contained script (see `plugengine.bench.guest`),
which is run by the agent inside a container, or below a driver's mount without one, and does the timing there. Any
other workload has a `take` that works on the driver itself, through the `Stand` it is given.

Distributions offer more through the hook `pe_bench_workloads`, which returns name to "module:class".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Final

from plugengine.bench.results import LOWER
from plugengine.bench.results import Workload as Row
from plugengine.model import HostPath

if TYPE_CHECKING:
    from plugengine.bench.fixture import Stand

GUEST: Final = f"{os.path.dirname(os.path.abspath(__file__))}/guest"
_TINY: Final = 20  # so much less than quick


class Size(Enum):
    """How much of everything a run does."""

    FULL = "full"
    QUICK = "quick"
    TINY = "tiny"  # for tests: the figures mean nothing


class Workload:
    """One row of the results.

    Attributes:
        name: As on the command line.
        title: A few words.
        sentence: What is done; "{files:,}" and so on are filled in from the sizes.
        group: Heading it is shown under.
        unit: "s", "B", "B/s", "1/s" or "%".
        better: `results.LOWER` or `results.HIGHER`.
        cold: The filesystem is freshly mounted and the kernel's caches are dropped before each value.
        limit: The plain directory takes part, as the limit; not for what only drivers do.
        deep: It uses `Stand.deep_chain`.
        full: The sizes of a full run, by name.
        quick: Those of a quick one.
        area: Names the files of the image that are used, /bench/AREA; workloads of one area share them, and are
            subclasses of one class whose `build` writes them. Empty: none.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    sentence: ClassVar[str] = ""
    group: ClassVar[str] = ""
    unit: ClassVar[str] = "s"
    better: ClassVar[str] = LOWER
    cold: ClassVar[bool] = False
    limit: ClassVar[bool] = True
    deep: ClassVar[bool] = False
    full: ClassVar[Mapping[str, int]] = {}
    quick: ClassVar[Mapping[str, int]] = {}
    area: ClassVar[str] = ""

    def sizes(self, size: Size) -> dict[str, int]:
        """Return how much of everything is done."""
        if size is Size.FULL:
            return dict(self.full)
        if size is Size.QUICK:
            return dict(self.quick)
        return {name: max(1, value // _TINY) for name, value in self.quick.items()}

    def build(self, directory: HostPath, sizes: Mapping[str, int]) -> None:
        """Write the files of the area into an empty directory, which becomes part of a layer of the image.

        The same sizes give the same content.
        """

    def take(self, stand: Stand, sizes: Mapping[str, int]) -> float:
        """Do the work once with the stand's driver and return the value in the workload's unit.

        Raises:
            Exception: Anything; it becomes the error of the cell, and the driver gets a fresh container.
        """
        raise NotImplementedError

    def row(self, size: Size, *, direct: bool = False, note: str = "") -> Row:
        """Return the description that goes into the results."""
        return Row(
            name=self.name,
            title=self.title,
            sentence=self.sentence.format(**self.sizes(size)),
            group=self.group,
            unit=self.unit,
            better=self.better,
            cold=self.cold,
            tool=self.tool(direct=direct),
            note=note,
        )

    def tool(self, *, direct: bool) -> str:  # noqa: ARG002 - for those to whom it makes a difference
        """Return the program that does the work, with its version; empty where it is ours."""
        return ""


class Inside(Workload):
    """A workload that is a function of a script, run inside.

    Attributes:
        script: Path of the script: standard library only, any Python from 3.8, `from agent import Job` and nothing
            else of the engine.
        function: Its function; gets a `Job`, returns the value or None for the seconds it timed.
        changes: It alters the files of its area, so that each value needs a fresh container. What a workload writes
            below `Job.work` is removed anyway.
    """

    script: ClassVar[str] = ""
    function: ClassVar[str] = ""
    changes: ClassVar[bool] = False

    def take(self, stand: Stand, sizes: Mapping[str, int]) -> float:
        """Run the function in the stand's container."""
        place = stand.place(self.name, untouched=self.changes)
        if self.cold:
            place.remount()
            stand.drop_caches()
        return place.run(self, sizes)

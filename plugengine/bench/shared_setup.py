"""Make what all columns of a storage run share: the image, the layers, the agent's directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from plugengine.bench.fixture import Surroundings
from plugengine.bench.image import Build, base_image, make_deep_image, make_image
from plugengine.bench.workload import GUEST, Inside, Workload
from plugengine.bench.workloads.life_cycle import DEEPEST
from plugengine.errors import NotFoundError
from plugengine.model import HostPath

if TYPE_CHECKING:
    from plugengine.engine import Engine
    from plugengine.spec import Image

_PROGRAMS: Final = ("git", "dpkg", "dpkg-deb", "dpkg-split", "tar", "rm", "sh", "ldconfig", "start-stop-daemon")
_HOST: Final = "host:"
_PATHS: Final = ("usr/local/bin", "usr/bin", "bin")


def set_up(
    engine: Engine,
    work: HostPath,
    workloads: Sequence[Workload],
    sizes: Mapping[str, Mapping[str, int]],
    *,
    image: str,
    direct: bool,
    host_driver: str,
    environ: Mapping[str, str],
) -> Surroundings:
    """Make the image and the agent's directory.

    Args:
        engine: Of the run.
        work: A directory on the filesystem that is measured.
        workloads: What will be run.
        sizes: How much of everything, by workload.
        image: The base.
        direct: As in `Surroundings`, which has the next one, too.
        host_driver: A driver.
        environ: Where the user's own roots are found.

    Raises:
        NotFoundError: There is no such image, or no Python in it.
    """
    store = engine.site.images
    base = base_image(engine.site, image, environ)
    _check_python(base, image)
    areas = _areas(workloads, sizes)
    tools = _tools if image.startswith(_HOST) else None
    agent, scripts = _agent(work, workloads)
    made = make_image(store, base, areas, tools=tools)
    return Surroundings(
        engine=engine,
        work=work,
        agent=agent,
        scripts=scripts,
        image=made,
        areas=dict(zip(areas, made.layers[len(made.layers) - len(areas) :], strict=True)),
        deep=make_deep_image(store, base, DEEPEST) if any(each.deep for each in workloads) else None,
        direct=direct,
        host_driver=host_driver,
    )


def _areas(workloads: Sequence[Workload], sizes: Mapping[str, Mapping[str, int]]) -> dict[str, Build]:
    """Return who writes each area: the first workload that uses it."""
    areas: dict[str, Build] = {}
    for each in workloads:
        if each.area and each.area not in areas:
            areas[each.area] = partial(_build, each, sizes[each.name])
    return areas


def _build(workload: Workload, sizes: Mapping[str, int], directory: HostPath) -> None:
    workload.build(directory, sizes)


def _tools(root: HostPath) -> None:
    """Add this machine's programs to an image of this machine's files, those of them it has."""
    from plugengine.images.sources.host.tree import HostTree

    tree = HostTree()
    for name in _PROGRAMS:
        tree.add_named_program(name)
    tree.build(root)


def _agent(work: HostPath, workloads: Sequence[Workload]) -> tuple[HostPath, dict[str, str]]:
    """Collect the scripts in one directory, which is shown read-only inside; return it and their names there."""
    directory = HostPath(f"{work}/agent")
    os.mkdir(directory, 0o755)
    shutil.copyfile(f"{GUEST}/agent.py", f"{directory}/agent.py")
    scripts: dict[str, str] = {}
    for each in workloads:
        if isinstance(each, Inside) and each.script not in scripts:
            name = f"script{len(scripts)}.py"
            shutil.copyfile(each.script, f"{directory}/{name}")
            scripts[each.script] = name
    return directory, scripts


def _check_python(base: Image, reference: str) -> None:
    if not any(os.path.lexists(f"{layer}/{path}/python3") for layer in base.layers for path in _PATHS):
        raise NotFoundError(
            f"image {reference}: has no python3 in /usr/local/bin, /usr/bin or /bin, and the workloads are Python",
            hint="host:python is made of this machine's own",
        )

"""Make the image that is measured: a base with Python, and above it a layer for each area the workloads use."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from plugengine.images.building import own_manifest, timestamp
from plugengine.images.catalog import Complete, LayerSizes
from plugengine.images.config import make_config
from plugengine.images.layers.diff import diff_layer
from plugengine.model import HostPath, encode

if TYPE_CHECKING:
    from plugengine.images.store import ImageStore
    from plugengine.site import Site
    from plugengine.spec import Image

HOME: Final = "/bench"  # in the image; areas, what is written, the agent's scripts
WORK: Final = f"{HOME}/work"
AGENT: Final = f"{HOME}/agent"
PLAIN: Final = f"{HOME}/plain"  # where the plain directory is shown in a container
NAME: Final = "bench:latest"
DEEP_NAME: Final = "bench-deep:latest"
_LONG_AGO_NS: Final = 1_000_000_000_000_000_000  # the same files give the same layers

Build = Callable[[HostPath], None]


def make_image(
    store: ImageStore, base: Image, areas: Mapping[str, Build], *, tools: Build | None = None, name: str = NAME
) -> Image:
    """Add an image made of a base and one layer for each area, `/bench/NAME`, in order.

    Args:
        store: Where.
        base: The image below.
        areas: By name: writes the area's files into the directory it is given.
        tools: Writes more programs into the directory of a layer.
        name: What to call it.
    """
    with store.adding("make image for measuring"):
        above = [] if tools is None else [_written(store, tools)]
        layers = [*above, _home(store), *(_layer(store, area, build) for area, build in areas.items())]
        return _add(store, base, layers, name)


def make_deep_image(store: ImageStore, base: Image, layers: int, *, name: str = DEEP_NAME) -> Image:
    """Add an image of so many layers in all, each above the base with one small file."""
    with store.adding("make image for measuring"):
        added = [_layer(store, f"deep/{number}", _one_file) for number in range(layers - len(base.layers))]
        return _add(store, base, added, name)


def flattened(store: ImageStore, image: Image, name: str) -> Image:
    """Add an image of another store as one of a single layer."""
    from plugengine.trees.flatten import write_chain

    def build(directory: HostPath) -> int:
        write_chain(image.layers, directory)
        return image.size_bytes

    config = _docker_config(image)
    return store.add_built(build, config=config, created_ns=_LONG_AGO_NS, created_by=name, name=f"base-of-{NAME}")


def base_image(site: Site, reference: str, environ: Mapping[str, str]) -> Image:
    """Return the base in the store of a run, made anew if it comes from a source, else taken over from the user's.

    Raises:
        NotFoundError: There is none of that name.
    """
    if site.images.sources.scheme_of(reference) is not None:
        return site.images.resolve(reference)
    from plugengine.state.locations import Locations

    theirs = type(site)(Locations.from_environment(environ), environ=environ)
    return flattened(site.images, theirs.images.get(reference), reference)


def _docker_config(image: Image) -> dict[str, object]:
    config = encode(image.config)
    return {"Env": list(config["env"]), "Cmd": ["python3"]}


def _one_file(directory: HostPath) -> None:
    with open(f"{directory}/file", "wb") as stream:
        stream.write(bytes(64))


def _home(store: ImageStore) -> tuple[str, int, int]:
    def build(root: HostPath) -> None:
        for path in (HOME, WORK, AGENT, PLAIN):
            os.makedirs(f"{root}{path}", exist_ok=True)

    return _written(store, build)


def _layer(store: ImageStore, area: str, build: Build) -> tuple[str, int, int]:
    def below(root: HostPath) -> None:
        directory = HostPath(f"{root}{HOME}/{area}")
        os.makedirs(directory)
        build(directory)

    return _written(store, below)


def _written(store: ImageStore, build: Build) -> tuple[str, int, int]:
    """Write a layer into the store; return its diff id, the size of its files and of its tar."""
    with store.files.scratch() as work:
        directory = work.directory("layer")
        build(directory)
        size = _settle(directory)
        diff_id, tar_bytes = diff_layer(directory)
        if not store.files.has_layer(diff_id):
            store.files.add_layer(directory, diff_id)
    return diff_id, size, tar_bytes


def _settle(directory: HostPath) -> int:
    """Give all files one time; return the size of their content."""
    size = 0
    for path, directories, files in os.walk(directory, topdown=False):
        for name in (*directories, *files):
            at = os.path.join(path, name)
            size += os.lstat(at).st_size
            os.utime(at, ns=(_LONG_AGO_NS, _LONG_AGO_NS), follow_symlinks=False)
    os.utime(directory, ns=(_LONG_AGO_NS, _LONG_AGO_NS))
    return size


def _add(store: ImageStore, base: Image, layers: Sequence[tuple[str, int, int]], name: str) -> Image:
    diff_ids = (*base.diff_ids, *(diff_id for diff_id, _size, _tar in layers))
    config = make_config(
        diff_ids=diff_ids, created=timestamp(_LONG_AGO_NS), created_by="pe bench", config=_docker_config(base)
    )
    tar_sizes = [*(0 for _ in base.diff_ids), *(tar_bytes for _diff_id, _size, tar_bytes in layers)]
    complete = Complete(
        id=store.files.add_blob(config),
        manifest_digest=store.files.add_blob(own_manifest(config, diff_ids, tar_sizes)),
        config=config,
        diff_ids=diff_ids,
        layers={diff_id: LayerSizes(files=size, tar=tar) for diff_id, size, tar in layers},
        original=False,
    )
    return store.commit(complete, [name])

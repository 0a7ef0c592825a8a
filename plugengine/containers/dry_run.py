"""Describe what a run would do, without doing any of it."""

from __future__ import annotations

import msgspec

from plugengine.containers.create import check_spec, choose_user_map, place_mounts
from plugengine.containers.plan import make_plan
from plugengine.networks import networks
from plugengine.site import Site
from plugengine.spec import ContainerSpec
from plugengine.state.container_rows import ContainerRow

_ID = "0" * 64  # of the container that is not made


def describe(site: Site, spec: ContainerSpec) -> list[str]:
    """Return the steps of `engine.containers.run` as text, without taking any of them.

    Raises:
        PlugengineError: As `engine.containers.run`, as far as it is known before the first step.
    """
    image = site.images.resolve(spec.image, pull=spec.pull)
    chosen = networks.choose(site, spec)
    drivers = site.drivers(chosen)
    check_spec(drivers, chosen, spec)
    user_map = choose_user_map(site, _ID, spec.userns, imagine=True)
    row = ContainerRow(
        id=_ID,
        name=spec.name or "(invented)",
        status="creating",
        created_ns=0,
        image_id=image.id,
        image_name=spec.image,
        spec=spec,
        choice=chosen,
        records={
            "platform": f"{image.os}/{image.architecture}",
            "layers": list(image.layers),
            "config": msgspec.to_builtins(image.config),
            "mounts": msgspec.to_builtins(place_mounts(site, _ID, spec, image, imagine=True)),
            "user_map": msgspec.to_builtins(user_map),
            "storage": {},
        },
    )
    lines = [f"prepare a writable layer with storage driver {chosen.storage} on {len(image.layers)} layers"]
    for step in make_plan(site, row, drivers, imagine=True).steps:
        lines += step.describe().splitlines()
    return lines

"""The groups below `pe`: bench, driver, image, layer, volume, network, system, and container as docker has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from plugengine.cli.catalog import BENCH, CONTAINER, DRIVER, IMAGE, LAYER, NETWORK, SYSTEM, VOLUME
from plugengine.cli.command import HELP_WIDTH, help_option
from plugengine.cli.lazy import Entry, LazyGroup


def _family(name: str, entries: Mapping[str, Entry], text: str) -> LazyGroup:
    return LazyGroup(
        name=name,
        entries=entries,
        params=[help_option()],
        add_help_option=False,
        context_settings={"max_content_width": HELP_WIDTH},
        help=text,
    )


_LONG_FORMS: Final = {**CONTAINER, "ls": CONTAINER["ps"]._replace(hidden=True)}

bench: Final[LazyGroup] = _family("bench", BENCH, "Measure drivers against each other, and compare what was measured.")
container: Final[LazyGroup] = _family("container", _LONG_FORMS, "The commands for containers, once more.")
driver: Final[LazyGroup] = _family("driver", DRIVER, "Commands for those who write drivers.")
image: Final[LazyGroup] = _family("image", IMAGE, "Commands for images.")
layer: Final[LazyGroup] = _family("layer", LAYER, "Plumbing for layers: unpack and pack them, for scripts.")
volume: Final[LazyGroup] = _family("volume", VOLUME, "Commands for volumes.")
network: Final[LazyGroup] = _family("network", NETWORK, "Commands for networks.")
system: Final[LazyGroup] = _family("system", SYSTEM, "Check, reset and describe the engine.")

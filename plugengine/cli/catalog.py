"""Which commands there are: where each one lives, and its line of help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from plugengine.cli.lazy import Entry

_HOME: Final = "plugengine.cli.commands"

CONTAINER: Final[Mapping[str, Entry]] = {
    "run": Entry(f"{_HOME}.run:run", "Make a container and start it"),
    "create": Entry(f"{_HOME}.run:create", "Make a container without starting it"),
    "start": Entry(f"{_HOME}.start:start", "Start stopped containers"),
    "stop": Entry(f"{_HOME}.signals:stop", "End running containers"),
    "restart": Entry(f"{_HOME}.signals:restart", "Stop containers and start them again"),
    "kill": Entry(f"{_HOME}.signals:kill", "Send a signal to containers"),
    "pause": Entry(f"{_HOME}.signals:pause", "Freeze all processes of containers"),
    "unpause": Entry(f"{_HOME}.signals:unpause", "Let paused containers go on"),
    "wait": Entry(f"{_HOME}.signals:wait", "Wait until containers end; print their exit codes"),
    "attach": Entry(f"{_HOME}.attach:attach", "Connect to a running container's streams"),
    "exec": Entry(f"{_HOME}.exec:exec_", "Run another command in a running container"),
    "ps": Entry(f"{_HOME}.ps:ps", "List containers"),
    "inspect": Entry(f"{_HOME}.inspect:inspect", "Show everything about containers, images or volumes"),
    "logs": Entry(f"{_HOME}.logs:logs", "Show what a container wrote"),
    "top": Entry(f"{_HOME}.top:top", "List the processes of a container"),
    "stats": Entry(f"{_HOME}.stats:stats", "Show the use of resources"),
    "port": Entry(f"{_HOME}.port:port", "List the published ports of a container"),
    "diff": Entry(f"{_HOME}.diff:diff", "List changes to a container's filesystem"),
    "rename": Entry(f"{_HOME}.remove:rename", "Give a container another name"),
    "rm": Entry(f"{_HOME}.remove:rm", "Remove containers"),
}

_IMAGES: Final[Mapping[str, Entry]] = {
    "images": Entry(f"{_HOME}.images:images", "List images"),
    "load": Entry(f"{_HOME}.load:load", "Load images from an archive"),
    "import": Entry(f"{_HOME}.load:import_", "Make an image from the tar of a root filesystem"),
    "tag": Entry(f"{_HOME}.images:tag", "Give an image another name"),
    "rmi": Entry(f"{_HOME}.images:rmi", "Remove images"),
}

IMAGE: Final[Mapping[str, Entry]] = {
    "ls": Entry(f"{_HOME}.images:images", "List images"),
    "inspect": Entry(f"{_HOME}.inspect:inspect_image", "Show everything about images"),
    "load": _IMAGES["load"],
    "import": _IMAGES["import"],
    "tag": _IMAGES["tag"],
    "rm": Entry(f"{_HOME}.images:rmi", "Remove images"),
}

LAYER: Final[Mapping[str, Entry]] = {
    "apply": Entry(f"{_HOME}.layer:apply", "Unpack a layer tar from standard input"),
    "diff": Entry(f"{_HOME}.layer:diff", "Write the layer tar of a directory to standard output"),
}

VOLUME: Final[Mapping[str, Entry]] = {
    "create": Entry(f"{_HOME}.volume:create", "Make a volume"),
    "ls": Entry(f"{_HOME}.volume:ls", "List volumes"),
    "inspect": Entry(f"{_HOME}.inspect:inspect_volume", "Show everything about volumes"),
    "rm": Entry(f"{_HOME}.volume:rm", "Remove volumes"),
}

NETWORK: Final[Mapping[str, Entry]] = {
    "create": Entry(f"{_HOME}.network:create", "Make a network"),
    "ls": Entry(f"{_HOME}.network:ls", "List networks"),
    "inspect": Entry(f"{_HOME}.inspect:inspect_network", "Show everything about networks"),
    "rm": Entry(f"{_HOME}.network:rm", "Remove networks"),
}

DRIVER: Final[Mapping[str, Entry]] = {
    "new": Entry(f"{_HOME}.driver_new:new", "Write the project of a new driver"),
    "test": Entry(f"{_HOME}.driver:test", "Run the conformance kit against a driver"),
}

BENCH: Final[Mapping[str, Entry]] = {
    "storage": Entry(f"{_HOME}.bench:storage", "Measure storage drivers"),
    "start": Entry(f"{_HOME}.bench:start", "Measure how quickly containers start and stop"),
    "net": Entry(f"{_HOME}.bench:net", "Measure network drivers"),
    "show": Entry(f"{_HOME}.bench_results:show", "Show the results of an earlier run"),
    "compare": Entry(f"{_HOME}.bench_results:compare", "Compare two runs; fail when the second is worse"),
}

SYSTEM: Final[Mapping[str, Entry]] = {
    "check": Entry(f"{_HOME}.system:check", "Report what crashes left behind; remove or restore it with --repair"),
    "reset": Entry(f"{_HOME}.system:reset", "Remove all containers, images, volumes and networks"),
    "info": Entry(f"{_HOME}.info:info", "Show where the engine works and with what"),
}

COMMANDS: Final[Mapping[str, Entry]] = {
    **CONTAINER,
    **_IMAGES,
    "drivers": Entry(f"{_HOME}.drivers:drivers", "List the drivers, and what works on this host"),
    "driver": Entry("plugengine.cli.families:driver", "Commands for those who write drivers"),
    "bench": Entry("plugengine.cli.families:bench", "Measure drivers against each other"),
    "info": Entry(f"{_HOME}.info:info", "Show where the engine works and with what"),
    "version": Entry(f"{_HOME}.info:version", "Show versions"),
    "container": Entry("plugengine.cli.families:container", "The commands for containers, once more"),
    "image": Entry("plugengine.cli.families:image", "Commands for images"),
    "layer": Entry("plugengine.cli.families:layer", "Plumbing for layers"),
    "volume": Entry("plugengine.cli.families:volume", "Commands for volumes"),
    "network": Entry("plugengine.cli.families:network", "Commands for networks"),
    "system": Entry("plugengine.cli.families:system", "Check, reset and describe the engine"),
}

"""`pe info` and `pe version`."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

import click

from plugengine.cli.app import App
from plugengine.cli.command import command, option
from plugengine.cli.formatting import to_json, unescape
from plugengine.cli.human import binary_size


def _format_option() -> click.Option:
    return option("-f", "--format", metavar="TEMPLATE", help="json, or a Go template.")


@command(_format_option())
def info(app: App, *, format: str | None) -> None:  # noqa: A002 - the flag's name
    """Show where the engine works, with what, and how much there is of everything."""
    engine = app.engine
    counts = Counter(row.status for row in engine.containers.list(all=True))
    host = os.uname()
    facts: dict[str, Any] = {
        "ServerVersion": _version(),
        "Containers": counts.total(),
        "ContainersRunning": counts["running"],
        "ContainersPaused": counts["paused"],
        "ContainersStopped": counts.total() - counts["running"] - counts["paused"],
        "Images": len(engine.images.list()),
        "Volumes": len(engine.volumes.list()),
        "Drivers": {status.kind: status.name for status in engine.drivers.list() if status.default},
        "Root": engine.site.locations.root,
        "RunRoot": engine.site.locations.run_root,
        "KernelVersion": host.release,
        "Architecture": host.machine,
        "OperatingSystem": _operating_system(),
        "NCPU": os.sysconf("SC_NPROCESSORS_ONLN"),
        "MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "Name": host.nodename,
        "Python": sys.version.split()[0],
    }
    _show(app, facts, format, {**facts, "MemTotal": binary_size(facts["MemTotal"])})


@command(_format_option())
def version(app: App, *, format: str | None) -> None:  # noqa: A002 - the flag's name
    """Show the versions of the engine, its driver API, Python and the kernel."""
    from plugengine.hookspecs import API_VERSION

    host = os.uname()
    facts = {
        "Version": _version(),
        "ApiVersion": ".".join(map(str, API_VERSION)),
        "PythonVersion": sys.version.split()[0],
        "KernelVersion": host.release,
        "Os": "linux",
        "Arch": host.machine,
    }
    _show(app, facts, format, facts)


def _show(app: App, facts: Mapping[str, Any], template: str | None, for_people: Mapping[str, Any]) -> None:
    if template == "json":
        app.line(to_json(facts))
    elif template:
        from plugengine.cli.gotemplate import Template

        app.line(Template(unescape(template)).render(facts))
    else:
        for name, value in for_people.items():
            if isinstance(value, Mapping):
                app.write(f"{name}:\n")
                app.write("".join(f"    {key}: {item}\n" for key, item in value.items()))
            else:
                app.write(f"{name}: {value}\n")


def _version() -> str:
    from importlib.metadata import version

    return version("plugengine")


def _operating_system() -> str:
    try:
        with open("/etc/os-release", encoding="utf-8") as stream:
            facts = dict(line.rstrip("\n").partition("=")[::2] for line in stream)
    except OSError:
        return "Linux"
    return facts.get("PRETTY_NAME", "Linux").strip('"')

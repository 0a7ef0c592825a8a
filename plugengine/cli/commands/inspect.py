"""`pe inspect`, and `pe image inspect`, `pe volume inspect` and `pe network inspect`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from plugengine.cli.app import App
from plugengine.cli.command import argument, command, option
from plugengine.cli.formatting import to_json, unescape
from plugengine.cli.parse.quantities import parse_choice
from plugengine.errors import NotFoundError, PlugengineError

_TYPES: Final = ("container", "image", "volume")
_INDENT: Final = 4
Finder = Callable[[str], Mapping[str, Any]]


def _format_option() -> click.Option:
    return option("-f", "--format", metavar="TEMPLATE", help="json, or a Go template for each object.")


@command(
    _format_option(),
    option("--type", metavar="TYPE", help="Look for a container, image or volume only."),
    argument("names", many=True, metavar="NAME..."),
)
def inspect(app: App, names: tuple[str, ...], **values: str | None) -> int:
    """Show everything about containers, images or volumes, as JSON; the first kind that has the name is meant."""
    wanted = values["type"]
    kinds = (parse_choice("--type", wanted, _TYPES),) if wanted else _TYPES
    return _show(app, names, values["format"], lambda name: _find(app, name, kinds))


@command(_format_option(), argument("names", many=True, metavar="IMAGE..."))
def inspect_image(app: App, names: tuple[str, ...], *, format: str | None) -> int:  # noqa: A002 - the flag's name
    """Show everything about images, as JSON."""
    return _show(app, names, format, lambda name: _find(app, name, ("image",)))


@command(_format_option(), argument("names", many=True, metavar="VOLUME..."))
def inspect_volume(app: App, names: tuple[str, ...], *, format: str | None) -> int:  # noqa: A002 - the flag's name
    """Show everything about volumes, as JSON."""
    return _show(app, names, format, lambda name: _find(app, name, ("volume",)))


@command(_format_option(), argument("names", many=True, metavar="NETWORK..."))
def inspect_network(app: App, names: tuple[str, ...], *, format: str | None) -> int:  # noqa: A002 - the flag's name
    """Show everything about networks, as JSON."""
    return _show(app, names, format, lambda name: _network(app, name))


def _find(app: App, name: str, kinds: tuple[str, ...]) -> Mapping[str, Any]:
    finders: dict[str, Finder] = {
        "container": lambda wanted: _container(app, wanted),
        "image": lambda wanted: _image(app, wanted),
        "volume": lambda wanted: _volume(app, wanted),
    }
    hint = None
    for kind in kinds:
        try:
            return finders[kind](name)
        except NotFoundError as exc:
            if len(kinds) == 1:
                raise
            if exc.hint and exc.hint.startswith("did you mean"):
                hint = hint or exc.hint
    raise NotFoundError(f"object {name}: no such container, image or volume", hint=hint)


def _container(app: App, name: str) -> Mapping[str, Any]:
    from plugengine.api import container_json

    containers = app.engine.containers
    found = containers.get(name)
    return container_json.container(
        found, stats=containers.driver_stats(found.id), missing=app.engine.drivers.missing(found.drivers)
    )


def _image(app: App, name: str) -> Mapping[str, Any]:
    from plugengine.api import object_json

    found = app.engine.images.get(name)
    return object_json.image(found, app.engine.images.config(found.id))


def _volume(app: App, name: str) -> Mapping[str, Any]:
    from plugengine.api import object_json

    return object_json.volume(app.engine.volumes.get(name), app.engine.volumes.directory(name))


def _network(app: App, name: str) -> Mapping[str, Any]:
    from plugengine.api import object_json

    networks = app.engine.networks
    return object_json.network(networks.get(name), networks.live(name))


def _show(app: App, names: tuple[str, ...], template: str | None, find: Finder) -> int:
    """Show what there is, and say what is not; 1 if something was not."""
    render: Callable[[Any], str] | None = to_json if template == "json" else None
    if template and render is None:
        from plugengine.cli.gotemplate import Template

        render = Template(unescape(template)).render
    found: list[Mapping[str, Any]] = []
    errors: list[PlugengineError] = []
    for name in names:
        try:
            found.append(find(name))
        except PlugengineError as exc:
            errors.append(exc)
    if render is None:
        app.write(f"{to_json(found, indent=_INDENT)}\n")
    else:
        for each in found:
            app.line(render(each))
    for error in errors:
        app.say(error)
    return 1 if errors else 0

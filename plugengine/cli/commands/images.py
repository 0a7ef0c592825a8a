"""`pe images`, `tag` and `rmi`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from plugengine.cli.app import App
from plugengine.cli.command import argument, command, option, options, switch
from plugengine.cli.filters import has_label, parse_filters
from plugengine.cli.formatting import show_rows
from plugengine.cli.human import ago, decimal_size, local_time
from plugengine.cli.parse.quantities import parse_bool
from plugengine.cli.parse.times import parse_date
from plugengine.model import short_id

if TYPE_CHECKING:
    from plugengine.spec import Image

HEADINGS: Final[Mapping[str, str]] = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
}
_COLUMNS: Final = ("Repository", "Tag", "ID", "CreatedSince", "Size")
_NONE: Final = "<none>"
_FILTERS: Final = ("reference", "dangling", "label")


@command(
    switch("-a", "--all", help="All of them; there are no intermediate ones to hide."),
    switch("-q", "--quiet", help="Ids only."),
    switch("--no-trunc", help="Whole ids."),
    switch("--digests", help="Show digests."),
    options("-f", "--filter", metavar="KEY=VALUE", help="reference, dangling or label."),
    option("--format", metavar="TEMPLATE", help="table, json, or a Go template."),
    argument("repository", required=False, metavar="[REPOSITORY[:TAG]]"),
)
def images(app: App, repository: str | None, **values: Any) -> None:
    """List the images of the store, one line for each name."""
    wanted = parse_filters(values["filter"], _FILTERS, example="reference=web*")
    if repository:
        wanted.setdefault("reference", []).append(repository)
    now = time.time_ns()
    lines = [
        describe(image, name, now_ns=now, whole=values["no_trunc"])
        for image in app.engine.images.list()
        for name in image.names or ("",)
        if _passes(image, name, wanted)
    ]
    columns = ("Repository", "Tag", "Digest", "ID", "CreatedSince", "Size") if values["digests"] else _COLUMNS
    if values["quiet"]:
        lines = list({line["ID"]: line for line in lines}.values())
    show_rows(
        app.write,
        lines,
        columns=columns,
        headings=HEADINGS,
        template=values["format"],
        quiet="ID" if values["quiet"] else None,
    )


def describe(image: Image, name: str, *, now_ns: int, whole: bool) -> dict[str, str]:
    """Return what a line about one name of an image may show."""
    repository, _, tag = name.rpartition(":")
    created = parse_date(image.created) or 0
    return {
        "Repository": repository or _NONE,
        "Tag": tag or _NONE,
        "Digest": image.digest,
        "ID": image.id if whole else short_id(image.id),
        "CreatedSince": ago(created, now_ns),
        "CreatedAt": local_time(created),
        "Size": decimal_size(image.size_bytes),
    }


def _passes(image: Image, name: str, wanted: Mapping[str, list[str]]) -> bool:
    import fnmatch

    repository = name.rpartition(":")[0]
    references = wanted.get("reference", [])
    if references and not any(
        fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(repository, pattern) for pattern in references
    ):
        return False
    if any(parse_bool("--filter dangling", text) != (not name) for text in wanted.get("dangling", [])):
        return False
    return all(has_label(image.config.labels, label) for label in wanted.get("label", []))


@command(argument("source", metavar="IMAGE"), argument("target", metavar="NAME[:TAG]"))
def tag(app: App, source: str, target: str) -> None:
    """Give an image another name; a name in use moves here."""
    app.engine.images.tag(source, target)


@command(
    switch("-f", "--force", help="Also with several names, or when stopped containers use it."),
    argument("references", many=True, metavar="IMAGE..."),
)
def rmi(app: App, references: tuple[str, ...], *, force: bool) -> int:
    """Remove names of images, and with the last name the image and the layers no other needs."""
    return app.each(references, lambda reference: "\n".join(app.engine.images.remove(reference, force=force)))

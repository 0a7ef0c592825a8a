"""The collections of `Engine` hand out public values only, each with its words."""

from __future__ import annotations

import inspect
import re

import pytest

import plugengine
from plugengine.engine import Engine
from plugengine.engine.containers import Containers
from plugengine.engine.images import Images
from plugengine.engine.networks import Networks
from plugengine.engine.system import Drivers, System
from plugengine.engine.volumes import Volumes

COLLECTIONS = {
    "containers": Containers,
    "images": Images,
    "volumes": Volumes,
    "networks": Networks,
    "drivers": Drivers,
    "system": System,
}
# What Python and its library bring along.
PLAIN = {
    *("None", "int", "str", "bool", "bytes", "float", "dict", "tuple", "list", "builtins", "Any"),
    *("Iterable", "Iterator", "Mapping", "Callable", "Sequence", "BinaryIO", "Log", "Progress"),
}


def verbs() -> list[tuple[str, str]]:
    """Return (collection, method) of every public method."""
    return [
        (name, verb)
        for name, collection in COLLECTIONS.items()
        for verb, _function in inspect.getmembers(collection, inspect.isfunction)
        if not verb.startswith("_")
    ]


def test_the_engine_has_these_collections() -> None:
    found = {name for name, value in vars(Engine).items() if not name.startswith("_") and hasattr(value, "func")}
    assert found == set(COLLECTIONS)


@pytest.mark.parametrize(("collection", "verb"), verbs())
def test_a_verb_takes_and_returns_exported_types(collection: str, verb: str) -> None:
    function = getattr(COLLECTIONS[collection], verb)
    annotations = {name: text for name, text in function.__annotations__.items() if isinstance(text, str)}
    assert "return" in annotations
    names = {word for text in annotations.values() for word in re.findall(r"[A-Za-z_]+", text)}
    assert names - PLAIN - set(plugengine.__all__) == set()


@pytest.mark.parametrize(("collection", "verb"), verbs())
def test_a_verb_says_what_it_does(collection: str, verb: str) -> None:
    assert inspect.getdoc(getattr(COLLECTIONS[collection], verb))

"""What is taken for a hook: the same as by pluggy's own manager."""

from __future__ import annotations

import importlib
from types import ModuleType, SimpleNamespace

import pluggy
import pytest

from plugengine.hookmarks import PROJECT
from plugengine.hookspecs import SPECS, hookimpl
from plugengine.plugins.manager import Manager

BUNDLED = (
    "plugengine_overlay",
    "plugengine_fuse_union",
    "plugengine_net_bridge",
    "plugengine_cgroup_v2",
    "plugengine_namespaces",
    "plugengine_runtime_native",
)


class Methods:
    """Hooks of every form, bound to nothing, to a class and to an object."""

    @hookimpl
    def pe_event(self) -> str:
        return "method"

    @staticmethod
    @hookimpl
    def pe_commands() -> str:
        return "static"

    @classmethod
    @hookimpl
    def pe_image_sources(cls) -> str:
        return "class"


@hookimpl
def misnamed() -> None:
    """A hook no kind has."""


def hooks_of(manager: pluggy.PluginManager, plugin: object) -> set[str]:
    for spec in SPECS.values():
        manager.add_hookspecs(spec)
    manager.register(plugin)
    return {caller.name for caller in manager.get_hookcallers(plugin) or ()}


def of_module() -> ModuleType:
    module = ModuleType("of_module")
    methods = Methods()
    vars(module).update(
        pe_event=methods.pe_event, pe_commands=Methods.pe_commands, misnamed=misnamed, classes=Methods, number=7
    )
    return module


@pytest.mark.parametrize(
    ("plugin", "hooks"),
    [
        (Methods(), {"pe_event", "pe_commands", "pe_image_sources"}),
        (of_module(), {"pe_event", "pe_commands", "misnamed"}),
        (SimpleNamespace(pe_commands=Methods.pe_commands), {"pe_commands"}),
    ],
    ids=["object", "module", "namespace"],
)
def test_functions_methods_and_static_ones_are_hooks_whatever_their_names(plugin: object, hooks: set[str]) -> None:
    assert hooks_of(Manager(PROJECT), plugin) == hooks == hooks_of(pluggy.PluginManager(PROJECT), plugin)


@pytest.mark.parametrize("name", BUNDLED)
def test_every_hook_of_a_bundled_driver_is_found(name: str) -> None:
    module = importlib.import_module(name)
    found = hooks_of(Manager(PROJECT), module)
    assert found == hooks_of(pluggy.PluginManager(PROJECT), module)
    assert len(found) > 2

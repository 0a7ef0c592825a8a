"""A plugin manager that looks only at what can be a hook: most of what it costs to register a driver is the rest."""

from __future__ import annotations

from types import FunctionType, MethodType, ModuleType

import pluggy

# What pluggy takes for a hook, wherever it finds it.
_HOOKABLE = (FunctionType, MethodType, classmethod, staticmethod)


class Manager(pluggy.PluginManager):
    """Registers what `pluggy.PluginManager` does."""

    def parse_hookspec_opts(self, module_or_class: ModuleType | type, name: str) -> pluggy.HookspecOpts | None:
        """Pass by what a class of hooks has besides: the names of Python's own."""
        return super().parse_hookspec_opts(module_or_class, name) if name.startswith("pe_") else None

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """Pass by classes and values of a module; a marked function is seen whatever its name, to be refused."""
        if isinstance(plugin, ModuleType) and not isinstance(vars(plugin).get(name), _HOOKABLE):
            return None
        return super().parse_hookimpl_opts(plugin, name)

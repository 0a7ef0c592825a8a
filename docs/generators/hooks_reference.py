"""Write docs/hooks.md from the contract itself: `python docs/generators/hooks_reference.py`."""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, Final

from plugengine import hookspecs, model
from plugengine.hookmarks import QUICK_S, Call, Process, calls_of

TARGET: Final = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "hooks.md")
_WIDTH: Final = 110
_PAGE_WIDTH: Final = 120
_HEAD: Final = """\
# Hooks

Written by `docs/generators/hooks_reference.py` from `plugengine/hookspecs.py` and `plugengine/model.py`, which are the
contract; API version {version}. How to begin is in [writing a driver](writing-a-driver.md).

{rules}

A driver may import `plugengine` and, below it, {modules}. Everything else is the engine's own and changes without
notice.

## Versions

`DriverInfo.api_version` is the version a driver was written for, `(major, minor)`. Another major version is refused
with a sentence that says so. A newer minor version than the engine's is accepted: hooks the engine does not know are
never called; a capability or a parameter it does not know is named in the error. An older one works.

## Who has which hooks, and who calls them

Each kind begins with a table. *Has it*: every driver of the kind, those that claim a capability, or who likes to. A
driver without a hook it must have is refused when it is loaded, with a sentence that names the hook and the
distribution. *Called in*: the caller's process is `pe`, or the one that uses the library, and the hook runs in the
thread that called; the monitor is the one process each running container has, with one thread and a mount namespace of
its own. What either would have unmade, but for being killed, is unmade by another process with one thread; that is also
where all drivers are asked for their `info` and `probe`, and where they collect (`gc`) for `pe system check --repair`:
each stranger's in a process of its own, so that one that hangs or crashes takes nobody along. *While it runs*: whether
the container runs meanwhile; "-" where there is none, or where it may be either.

## Deadlines

A hook that does not return within the seconds of these tables is ended with an error, and its driver is shown as
degraded by `pe drivers`: it is no default until the same verb has returned, but can still be named. Importing a driver
has {import_s:g} seconds. `PLUGENGINE_HOOK_TIMEOUT` sets one number for all, 0 none. It holds in every thread: in the
main one a signal interrupts the hook; elsewhere the hook runs in a thread of its own, which is left behind and ends at
its next line of Python. A call into C that neither returns nor is interrupted by signals is not ended.
"""
_RUNS: Final = {
    Process.CALLER: "caller",
    Process.MONITOR: "monitor",
    Process.CALLER | Process.MONITOR: "caller, monitor",
}
_RUNNING: Final = {True: "yes", False: "no", None: "-"}
_TITLES: Final = {
    "storage": (
        "Storage",
        "`plugengine.storage`",
        "info, probe; prepare; then for every start mounts; usage, "
        "upper, stats at any time after prepare; remove; gc whenever the engine cleans up",
    ),
    "network": (
        "Network",
        "`plugengine.network`",
        "info, probe; create, attach for every start; ports, stats while it "
        "runs; detach for every end; remove when the network goes; gc whenever the engine cleans up",
    ),
    "cgroup": (
        "Cgroup",
        "`plugengine.cgroup`",
        "info, probe; settings, create, apply, entry, mounts for every "
        "start; pids, stats, freeze, apply while it runs; kill, remove for every end; gc",
    ),
    "namespace": ("Namespace", "`plugengine.namespace`", "info, probe; plan for every start"),
    "runtime": (
        "Runtime",
        "`plugengine.runtime`",
        "info, probe; create, start for every start; exec, kill, state while it "
        "runs; delete for every end; gc whenever the engine cleans up",
    ),
    "hooks": ("Observers and extensions", "`plugengine.hooks`", "any number of plugins, all of them active"),
}


def render() -> str:
    """Return the page."""
    rules = inspect.cleandoc(hookspecs.__doc__ or "").partition("\n\n")[2]
    head = _wrapped(
        _HEAD.format(
            version=".".join(map(str, hookspecs.API_VERSION)),
            rules=_list(rules),
            modules=", ".join(f"`{name}`" for name in hookspecs.PUBLIC_MODULES),
            import_s=QUICK_S,
        )
    )
    parts = [head]
    for kind, spec in hookspecs.SPECS.items():
        parts += _kind(kind, spec)
    parts += ["## Values\n", "Frozen, keyword-only, JSON-able; units are part of the names.\n", *_values()]
    return "\n".join(parts)


def _wrapped(text: str) -> str:
    """Break the lines of paragraphs anew; headings and lists stay."""
    parts = text.split("\n\n")
    prose = [part if part.startswith(("*", "#")) else textwrap.fill(part, _PAGE_WIDTH) for part in parts]
    return "\n\n".join(prose) + ("\n" if text.endswith("\n") else "")


def _list(rules: str) -> str:
    """Turn the indented rules of the module's docstring into a list of Markdown."""
    title, _, lines = rules.partition("\n")
    return f"{title}:\n\n{inspect.cleandoc(lines)}"


def _kind(kind: str, spec: type[Any]) -> Iterator[str]:
    title, group, order = _TITLES[kind]
    yield f"## {title}\n"
    yield _wrapped(f"{inspect.cleandoc(spec.__doc__ or '')} Entry-point group {group}. In order: {order}.\n")
    calls = calls_of(spec)
    if calls:
        head = ("| hook | has it | called in | seconds | while it runs |", "|---|---|---|---|---|")
        yield "\n".join([*head, *(_call(name, call) for name, call in calls.items()), ""])
    for name, function in vars(spec).items():
        if name.startswith("pe_"):
            yield f"### {name}\n"
            yield f"```python\n{signature(name, function)}\n```\n"
            yield f"{inspect.cleandoc(function.__doc__ or '')}\n"


def _call(name: str, call: Call) -> str:
    has = f"claims `{call.claim.name}`" if call.claim else "optional" if call.optional else "every driver"
    return f"| [{name}](#{name}) | {has} | {_RUNS[call.runs]} | {call.within_s:g} | {_RUNNING[call.running]} |"


def signature(name: str, function: Any) -> str:
    """Return how a driver writes the hook, without `self`."""
    found = inspect.signature(function)
    parameters = [f"{each.name}: {each.annotation}" for each in found.parameters.values() if each.name != "self"]
    line = f"def {name}({', '.join(parameters)}) -> {found.return_annotation}"
    if len(line) <= _WIDTH:
        return line
    return f"def {name}(\n    {', '.join(parameters)}\n) -> {found.return_annotation}"


def _values() -> Iterator[str]:
    """Yield every value of the model with its fields, and what the source says beside them."""
    source = inspect.getsource(model)
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        yield f"### {node.name}\n"
        yield f"{ast.get_docstring(node) or ''}\n"
        rows = [_row(each, lines) for each in node.body if isinstance(each, ast.AnnAssign | ast.Assign)]
        yield "\n".join(["| | |", "|---|---|", *rows, ""])


def _row(node: ast.AnnAssign | ast.Assign, lines: list[str]) -> str:
    line = lines[node.end_lineno - 1 if node.end_lineno else 0]
    comment = re.search(r"  # (?!noqa)(.*)$", line)
    text = ast.unparse(node).replace("|", "\\|")
    return f"| `{text}` | {comment[1].replace('|', chr(92) + '|') if comment else ''} |"


if __name__ == "__main__":
    with open(TARGET, "w", encoding="utf-8") as page:
        page.write(render())
    sys.stderr.write(f"wrote {TARGET}\n")

"""Read a profile in docker's JSON format; see docker's documentation, "Seccomp security profiles"."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

from plugengine.errors import NotSupportedError, UsageError
from plugengine.security.seccomp_profile import (
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS,
    SECCOMP_RET_KILL_THREAD,
    SECCOMP_RET_LOG,
    SECCOMP_RET_TRACE,
    SECCOMP_RET_TRAP,
    WHOLE,
    Condition,
    Context,
    Profile,
    Rule,
)

_ACTIONS = {
    "SCMP_ACT_KILL": SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": SECCOMP_RET_KILL_PROCESS,
    "SCMP_ACT_TRAP": SECCOMP_RET_TRAP,
    "SCMP_ACT_ERRNO": SECCOMP_RET_ERRNO,
    "SCMP_ACT_TRACE": SECCOMP_RET_TRACE,
    "SCMP_ACT_ALLOW": SECCOMP_RET_ALLOW,
    "SCMP_ACT_LOG": SECCOMP_RET_LOG,
}
_WITH_ERRNO = {SECCOMP_RET_ERRNO, SECCOMP_RET_TRACE}
_MAX_ERRNO = 4095  # include/linux/err.h

_OPERATORS = {
    "SCMP_CMP_NE": "!=",
    "SCMP_CMP_LT": "<",
    "SCMP_CMP_LE": "<=",
    "SCMP_CMP_EQ": "==",
    "SCMP_CMP_GE": ">=",
    "SCMP_CMP_GT": ">",
    "SCMP_CMP_MASKED_EQ": "masked",
}
_ARGUMENTS = 6

# Names of machines: libseccomp's, and Go's in "includes" and "excludes".
_MACHINES = {"SCMP_ARCH_X86_64": "x86_64", "SCMP_ARCH_X86": "i386", "SCMP_ARCH_AARCH64": "aarch64"}
_GO_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}

# They change how a filter is logged or when a CPU mitigation is on, not what it lets through.
_FLAGS_WITHOUT_EFFECT = {
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
}

_T = TypeVar("_T")


def parse(text: str, context: Context) -> Profile:
    """Return the profile as it applies to these capabilities on this machine.

    Rules are tried in the order of the file. Several comparisons of one argument in one rule are alternatives, and a
    rule with the default action is skipped: both as docker has it.

    Raises:
        UsageError: Not a profile; the message names the place.
        NotSupportedError: It needs a supervisor (SCMP_ACT_NOTIFY).
    """
    document = _document(text)
    default_errno = document.get("defaultErrnoRet", errno.EPERM)
    default = _action(_member(document, "defaultAction", str, "profile"), default_errno, "defaultAction")
    rules: list[Rule] = []
    for position, entry in enumerate(document.get("syscalls") or ()):
        place = f"syscalls[{position}]"
        if _applies(_mapping(entry, place), context, place):
            rules += (rule for rule in _rules(entry, default_errno, place) if rule.action != default)
    return Profile(default=default, machines=_machines(document, context.machine), rules=tuple(rules))


def _document(text: str) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"seccomp profile: not JSON: {exc}") from None
    for flag in _mapping(document, "profile").get("flags") or ():
        if flag not in _FLAGS_WITHOUT_EFFECT:
            raise UsageError(f"seccomp profile: flag {flag!r} is not known")
    if document.get("architectures") and document.get("archMap"):
        raise UsageError("seccomp profile: architectures and archMap exclude each other")
    if document.get("listenerPath"):
        raise NotSupportedError("seccomp profile: listenerPath: there is no supervisor to tell")
    return cast("Mapping[str, Any]", document)


def _machines(document: Mapping[str, Any], native: str) -> tuple[str, ...]:
    """Return the machines the rules are for; one we have no table for stays refused altogether."""
    wanted: list[object] = list(document.get("architectures") or ())
    for entry in document.get("archMap") or ():
        if _MACHINES.get(_member(_mapping(entry, "archMap"), "architecture", str, "archMap")) == native:
            wanted += entry.get("subArchitectures") or ()
    others = {machine for name in wanted if (machine := _MACHINES.get(str(name)))}
    # The kernel runs 32-bit calls of the same family only.
    return (native, "i386") if native == "x86_64" and "i386" in others else (native,)


def _applies(entry: Mapping[str, Any], context: Context, place: str) -> bool:
    includes = _mapping(entry.get("includes") or {}, f"{place}.includes")
    excludes = _mapping(entry.get("excludes") or {}, f"{place}.excludes")
    machine = _GO_NAMES[context.machine]
    if not context.capabilities.issuperset(includes.get("caps") or ()):
        return False
    if (machines := includes.get("arches")) and machine not in machines:
        return False
    if (kernel := includes.get("minKernel")) and context.kernel < _kernel(kernel, place):
        return False
    if context.capabilities.intersection(excludes.get("caps") or ()):
        return False
    if machine in (excludes.get("arches") or ()):
        return False
    return not ((kernel := excludes.get("minKernel")) and context.kernel >= _kernel(kernel, place))


def _kernel(text: object, place: str) -> tuple[int, int]:
    try:
        major, minor = str(text).split(".")[:2]
        return int(major), int(minor)
    except ValueError:
        raise UsageError(f"seccomp profile: {place}: minKernel {text!r} is not a version") from None


def _rules(entry: Mapping[str, Any], default_errno: object, place: str) -> Iterable[Rule]:
    names = entry.get("names") or ([entry["name"]] if entry.get("name") else [])
    if entry.get("name") and entry.get("names"):
        raise UsageError(f"seccomp profile: {place}: name and names exclude each other")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
        raise UsageError(f"seccomp profile: {place}: names is not a list of names")
    errno_ret = entry.get("errnoRet")
    action = _action(_member(entry, "action", str, place), default_errno if errno_ret is None else errno_ret, place)
    conditions = [_condition(_mapping(arg, place), place) for arg in entry.get("args") or ()]
    if len({one.argument for one in conditions}) == len(conditions):
        yield Rule(tuple(names), action, tuple(conditions))
        return
    for one in conditions:
        yield Rule(tuple(names), action, (one,))


def _condition(arg: Mapping[str, Any], place: str) -> Condition:
    index = _integer(arg, "index", _ARGUMENTS, place)
    value = _integer(arg, "value", WHOLE + 1, place)
    name = _member(arg, "op", str, place)
    operator = _OPERATORS.get(name)
    if operator is None:
        raise UsageError(f"seccomp profile: {place}: operator {name!r} is not known")
    if operator == "masked":
        return Condition(index, "==", _integer(arg, "valueTwo", WHOLE + 1, place), value)
    return Condition(index, operator, value)


def _action(name: str, errno_ret: object, place: str) -> int:
    if name == "SCMP_ACT_NOTIFY":
        raise NotSupportedError(f"seccomp profile: {place}: SCMP_ACT_NOTIFY: there is no supervisor to tell")
    action = _ACTIONS.get(name)
    if action is None:
        raise UsageError(f"seccomp profile: {place}: action {name!r} is not known")
    if action not in _WITH_ERRNO:
        return action
    if not isinstance(errno_ret, int) or not 0 <= errno_ret <= _MAX_ERRNO:
        raise UsageError(f"seccomp profile: {place}: errno {errno_ret!r} is not between 0 and {_MAX_ERRNO}")
    return action | errno_ret


def _integer(arg: Mapping[str, Any], key: str, end: int, place: str) -> int:
    value = arg.get(key, 0)
    if not isinstance(value, int) or not 0 <= value < end:
        raise UsageError(f"seccomp profile: {place}: {key} {value!r} is not between 0 and {end - 1}")
    return value


def _mapping(value: object, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"seccomp profile: {place}: not an object")
    return value


def _member(value: Mapping[str, Any], key: str, kind: Callable[..., _T], place: str) -> _T:
    member = value.get(key)
    if not isinstance(member, cast("type", kind)):
        raise UsageError(f"seccomp profile: {place}: {key} is missing or of the wrong type")
    return cast("_T", member)

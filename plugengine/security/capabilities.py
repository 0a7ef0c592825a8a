"""Turn `--cap-add`, `--cap-drop` and `--privileged` into one set of capabilities; see capabilities(7)."""

from __future__ import annotations

from collections.abc import Iterable

from plugengine.errors import NotSupportedError, UsageError
from plugengine.kernel.capabilities import capability_name, capability_names, capability_number, capability_set
from plugengine.kernel.credentials import capget

ALL = "ALL"

# What docker leaves to an ordinary container: enough for package managers and servers run as root, nothing that
# reaches another namespace.
DEFAULT = capability_set(
    (
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    )
)


def resolve(add: Iterable[str], drop: Iterable[str], *, privileged: bool = False, available: int | None = None) -> int:
    """Return the bounding, permitted and effective set of a container; inheritable and ambient are always empty.

    As docker does: `--privileged` ignores the lists; `ALL` added means all but the dropped ones; `ALL` dropped means
    only the added ones; else the default set, minus the dropped, plus the added. What the engine itself does not have
    is left out of `ALL`, of the default and of a privileged container.

    Args:
        add: Names in any case, with or without CAP_, or ALL.
        drop: The same.
        privileged: `--privileged`.
        available: What there is to give; None: what this process has.

    Raises:
        UsageError: An unknown name; near ones are offered.
        NotSupportedError: One asked for by name that the engine does not have.
    """
    ours = capget()[1] if available is None else available
    (added, add_all), (dropped, drop_all) = _parse(add, "--cap-add"), _parse(drop, "--cap-drop")
    if privileged:
        return ours
    if add_all:
        return ours & ~dropped
    if missing := added & ~ours:
        raise NotSupportedError(
            f"--cap-add {capability_names(missing)[0]}: the engine does not have it itself",
            hint="run the engine outside of a restricted container",
        )
    return added if drop_all else (DEFAULT & ours & ~dropped) | added


def names(bits: int) -> frozenset[str]:
    """Return the names of a set, with CAP_."""
    return frozenset(capability_name(number) for number in range(bits.bit_length()) if bits >> number & 1)


def _parse(given: Iterable[str], flag: str) -> tuple[int, bool]:
    bits, everything = 0, False
    for name in given:
        if name.upper() in {ALL, f"CAP_{ALL}"}:
            everything = True
            continue
        try:
            bits |= 1 << capability_number(name)
        except ValueError as exc:
            raise UsageError(f"{flag} {name}: {exc}") from None
    return bits, everything

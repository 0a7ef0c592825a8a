"""Be in the namespaces another process is to be born in, then come back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from plugengine.errors import DriverError
from plugengine.kernel import process
from plugengine.kernel.process import CLONE_NEWTIME, NAMESPACE_FLAGS
from plugengine.model import NamespacePlan


@contextmanager
def joined(namespaces: NamespacePlan) -> Iterator[int]:
    """Be in the namespaces to share while cloning, so that the child is born in them; then come back.

    Yields the flags to clone with. They lack CLONE_NEWTIME: a new time namespace is made here too, because its offsets
    are written before anybody is in it.

    Raises:
        DriverError: One of them cannot be entered.
    """
    back: list[tuple[int, int]] = []
    try:
        for name, path in namespaces.join:
            own = os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            back.append((own, NAMESPACE_FLAGS[name]))
            target = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                process.setns(target, NAMESPACE_FLAGS[name])
            finally:
                os.close(target)
        if namespaces.clone_flags & CLONE_NEWTIME:
            back.append((os.open("/proc/self/ns/time", os.O_RDONLY | os.O_CLOEXEC), CLONE_NEWTIME))
            process.unshare(CLONE_NEWTIME)
            _write_offsets(namespaces)
        yield namespaces.clone_flags & ~CLONE_NEWTIME
    except OSError as exc:
        raise DriverError(f"join namespaces: {exc}") from exc
    finally:
        for fd, kind in reversed(back):
            process.setns(fd, kind)
            os.close(fd)


def _write_offsets(namespaces: NamespacePlan) -> None:
    if namespaces.time_offsets:
        text = "".join(f"{clock} {seconds} 0\n" for clock, seconds in namespaces.time_offsets)
        with open("/proc/self/timens_offsets", "w", encoding="ascii") as stream:
            stream.write(text)

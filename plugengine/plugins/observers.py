"""Tell observers what happens to a container; see `hookspecs.LifecycleSpec.pe_event`."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from plugengine.model import Event
from plugengine.plugins.deadlines import Expired, within

_PATIENCE_S: Final = 5.0  # an observer is told while the container waits


class Observers:
    """Tells the observers of one container; does nothing where there are none.

    Args:
        observe: The hook, or None.
        container_id: Whose.
        complain: Takes a line about an observer that failed; it must not end a container.
    """

    def __init__(
        self, observe: Callable[..., Any] | None, container_id: str, *, complain: Callable[[str], object] | None = None
    ) -> None:
        self._observe = observe
        self._container_id = container_id
        self._complain = complain

    @property
    def present(self) -> bool:
        """Whether anybody listens."""
        return self._observe is not None

    def __call__(self, action: str, **detail: str) -> None:
        """Tell it; returns when all have been told."""
        if self._observe is None:
            return
        event = Event(container_id=self._container_id, action=action, time_ns=time.time_ns(), detail=detail)
        try:
            within(_PATIENCE_S, partial(self._observe, event=event))
        except (Exception, Expired) as exc:  # noqa: BLE001 - an observer must not end a container
            if self._complain is not None:
                self._complain(f"observer: {action}: {type(exc).__name__}: {exc}\n")

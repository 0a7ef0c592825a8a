"""Files that only save work or tell a later process something: written whole or not at all, and worth no error."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.model import HostPath


def write_quietly(path: HostPath, content: bytes) -> None:
    """Put a file in the place of the one that is there; where that cannot be done, do nothing."""
    temporary = f"{path}.{os.getpid()}"
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
        os.replace(temporary, path)
    except OSError:
        pass

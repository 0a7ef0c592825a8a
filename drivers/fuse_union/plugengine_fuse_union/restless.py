"""Files whose attributes change without a request, so that the kernel must not keep what it was told of them.

What is written to a shared mapping of a file that is passed through goes to the backing file, and changes its times and
its blocks there; the kernel's own node hears nothing of it. So a file is restless from its first open for reading and
writing, which every such mapping needs, until nothing has it open for writing any more. A mapping does, also when all
descriptors are closed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from plugengine.kernel.files import is_open_for_writing

from plugengine_fuse_union.nodes import close_kept

if TYPE_CHECKING:
    from plugengine_fuse_union.nodes import Node
    from plugengine_fuse_union.union import Union


def is_restless(union: Union, node: Node) -> bool:
    """Look whether a restless node still is, and take note if not."""
    opened = node.opened
    if opened is not None and opened.writers:
        return True
    try:
        node.restless = _is_written(union, node)
        if node.restless and (opened is not None or node.kept >= 0):
            # What is at hand here for the next request may be open for writing itself.
            union.on_drop(node)
            close_kept(node)
            node.restless = _is_written(union, node)
    except OSError:
        return True  # a filesystem without leases
    return node.restless


def _is_written(union: Union, node: Node) -> bool:
    fd = union.open_data(node, os.O_RDONLY)
    try:
        return is_open_for_writing(fd)
    finally:
        os.close(fd)

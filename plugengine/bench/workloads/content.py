"""Write the files that workloads find in the image; the same arguments give the same bytes."""

from __future__ import annotations

import os
from random import Random
from typing import Final

from plugengine.model import HostPath

MIB: Final = 1 << 20
FILE_BYTES: Final = 4096
FILES_PER_DIRECTORY: Final = 100


def write_tree(directory: HostPath, files: int, *, flat: bool = False) -> None:
    """Write small files, so many in each directory, or all in one."""
    noise = Random(files)  # noqa: S311 - content that does not compress, no secret
    os.makedirs(directory, exist_ok=True)
    for number in range(files):
        below = f"{directory}" if flat else f"{directory}/d{number // FILES_PER_DIRECTORY}"
        if number % FILES_PER_DIRECTORY == 0:
            os.makedirs(below, exist_ok=True)
        with open(f"{below}/f{number}", "wb") as stream:
            stream.write(noise.randbytes(FILE_BYTES))


def write_noise(path: HostPath, size: int) -> None:
    """Write one file that does not compress."""
    noise = Random(size)  # noqa: S311
    with open(path, "wb") as stream:
        for _ in range(size // MIB):
            stream.write(noise.randbytes(MIB))
        stream.write(noise.randbytes(size % MIB))


def write_sources(directory: HostPath, files: int) -> None:
    """Write Python sources, so many in each directory, of a size and a shape as in real packages."""
    for number in range(files):
        below = f"{directory}/package{number // FILES_PER_DIRECTORY}"
        if number % FILES_PER_DIRECTORY == 0:
            os.makedirs(below)
        with open(f"{below}/module{number}.py", "w", encoding="ascii") as stream:
            stream.write(_source(number))


_FUNCTIONS: Final = 12


def _source(number: int) -> str:
    functions = (
        f'def work_{number}_{each}(left: int, right: int = {each}) -> dict[str, int]:\n    """Combine."""\n'
        f"    found = {{}}\n    for index in range(left):\n        if index % {each + 2}:\n"
        f"            found[str(index)] = index * right + {number}\n    return found\n"
        for each in range(_FUNCTIONS)
    )
    return f'"""Module {number}."""\n\nimport os\n\n' + "\n\n".join(functions)

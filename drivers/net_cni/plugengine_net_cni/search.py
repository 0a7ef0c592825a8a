"""Find plugins and network configurations in their directories."""

from __future__ import annotations

import difflib
import os

from plugengine.errors import DriverError, UsageError

from plugengine_net_cni.config import NetworkList, read

PATH = "/opt/cni/bin:/usr/lib/cni"
DIRECTORY = "/etc/cni/net.d"
_SUFFIXES = (".conflist", ".conf", ".json")


def reasons() -> list[str]:
    """Return why this host cannot run CNI networks: it has no plugins."""
    if installed(PATH):
        return []
    return [f"no CNI plugins in {PATH}: install them (Debian: containernetworking-plugins)"]


def installed(path: str) -> list[str]:
    """Return the names of all plugins in the directories of a path."""
    found: set[str] = set()
    for directory in _directories(path):
        try:
            found.update(entry.name for entry in os.scandir(directory) if os.access(entry.path, os.X_OK))
        except OSError:
            continue
    return sorted(found)


def find_plugin(name: str, path: str) -> str:
    """Return the file of a plugin.

    Raises:
        DriverError: None of the directories has it.
    """
    for directory in _directories(path):
        file = os.path.join(directory, name)
        if os.path.isfile(file) and os.access(file, os.X_OK):
            return file
    known = installed(path)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known) or 'none'}"
    raise DriverError(f"cni plugin {name}: not found in {path}", hint=hint)


def find_list(name: str | None, directory: str) -> NetworkList:
    """Return the network of a name in a directory; None: the first that is valid, in the order of the files' names.

    Raises:
        UsageError: There is none, or it is not valid.
    """
    names: list[str] = []
    problems: list[str] = []
    for file in _files(directory):
        try:
            found = read(file)
        except UsageError as exc:
            problems.append(exc.message)
            continue
        if name is None or found.name == name:
            return found
        names.append(found.name)
    what = f"cni network {name}" if name else "cni network"
    close = difflib.get_close_matches(name or "", names, n=1)
    hint = f"did you mean {close[0]}?" if close else "name its file with the option conf=FILE"
    why = "; ".join([f"not found in {directory}", *problems])
    raise UsageError(f"{what}: {why}", hint=hint)


def _files(directory: str) -> list[str]:
    try:
        return sorted(entry.path for entry in os.scandir(directory) if entry.name.endswith(_SUFFIXES))
    except OSError:
        return []


def _directories(path: str) -> list[str]:
    return [directory for directory in path.split(":") if directory]

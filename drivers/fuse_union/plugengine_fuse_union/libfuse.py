"""Load fusepy and libfuse 2, which hosts may have or not."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, Final

from plugengine.errors import NotSupportedError

# By its name for the loader: left alone, fusepy runs ldconfig and gcc to find it.
_LIBRARY: Final = "libfuse.so.2"
_LIBRARY_VARIABLE: Final = "FUSE_LIBRARY_PATH"
# What is counted or noted where `devfuse` takes requests in.
_NOT_CARRIED: Final = ("size", "trace")


def require_carried(options: Mapping[str, object]) -> None:
    """Refuse options that nothing with libfuse would heed.

    Raises:
        NotSupportedError: One is set.
    """
    for name in _NOT_CARRIED:
        if options.get(name):
            raise NotSupportedError(f"storage option {name}: not with transport fusepy", hint="use transport=devfuse")


def load() -> Any:
    """Return the module `fuse` of fusepy.

    Raises:
        NotSupportedError: It, or libfuse 2, is not installed.
    """
    given = os.environ.get(_LIBRARY_VARIABLE)
    os.environ[_LIBRARY_VARIABLE] = given or _LIBRARY
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it was written for Python 2, and newer ones find more to say each year
            import fuse
    except ImportError as exc:
        raise NotSupportedError(
            "transport fusepy: the Python package fusepy is not installed", hint="pip install plugengine[fusepy]"
        ) from exc
    except OSError as exc:
        raise NotSupportedError(
            f"transport fusepy: {exc}", hint="install libfuse 2 (Debian: libfuse2) or use transport=devfuse"
        ) from exc
    finally:
        if given is None:
            del os.environ[_LIBRARY_VARIABLE]
    if not hasattr(fuse, "fuse_get_context"):
        raise NotSupportedError(
            f"transport fusepy: {fuse.__file__} is another package of that name",
            hint="pip install plugengine[fusepy] where fuse-python is not installed",
        )
    return fuse

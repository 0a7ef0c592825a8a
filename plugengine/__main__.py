"""`python -m plugengine` is `pe`."""

from __future__ import annotations

import sys

from plugengine.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""What a driver may import has known types only, as pyright's --verifytypes sees the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import plugengine
from plugengine import hookspecs
from tests.conftest import need

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# The cases themselves are not for drivers; those who write more of them use what the first line imports.
KIT = ("cases", "conformance", "outcome", "report", "runner")


def is_public(name: str) -> bool:
    """Tell whether a symbol "plugengine.module.…" is one drivers and embedders use."""
    parts = name.split(".")
    if len(parts) < 3:
        return name.removeprefix("plugengine.") in plugengine.__all__
    if parts[1] == "testing":
        return parts[2] in KIT
    return parts[1] in hookspecs.PUBLIC_MODULES or parts[1] == "engine"


def test_every_public_type_is_known() -> None:
    need(None if (BIN / "pyright").exists() else "needs pyright")
    done = subprocess.run(
        [str(BIN / "pyright"), "--verifytypes", "plugengine", "--ignoreexternal", "--outputjson"],
        # pyright looks for imports with the python it finds first, and for the package on PYTHONPATH.
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    symbols = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    public = [symbol for symbol in symbols if symbol["isExported"] and is_public(symbol["name"])]
    assert len(public) > 500
    unknown = {
        symbol["name"]: [each["message"].split("\n")[0] for each in symbol["diagnostics"]]
        for symbol in public
        if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]
    }
    assert not unknown

"""The workloads that come with the engine, by name; loaded the way a third party's are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_METADATA: Final = "plugengine.bench.workloads.metadata"
_DATA: Final = "plugengine.bench.workloads.data"
_REAL: Final = "plugengine.bench.workloads.real_work"
_CYCLE: Final = "plugengine.bench.workloads.life_cycle"

# In the order they are shown.
BUNDLED: Final[Mapping[str, str]] = {
    "unpack-layer": f"{_CYCLE}:UnpackLayer",
    "prepare": f"{_CYCLE}:Prepare",
    "mount-1": f"{_CYCLE}:MountOne",
    "mount-20": f"{_CYCLE}:MountTwenty",
    "mount-120": f"{_CYCLE}:MountMany",
    "diff": f"{_CYCLE}:Diff",
    "remove": f"{_CYCLE}:Remove",
    "memory": f"{_CYCLE}:Memory",
    "shared-read": f"{_CYCLE}:SharedRead",
    "shared-pages": f"{_CYCLE}:SharedPages",
    "walk-cold": f"{_METADATA}:WalkCold",
    "walk-warm": f"{_METADATA}:WalkWarm",
    "read-small-cold": f"{_METADATA}:ReadSmallCold",
    "read-small-warm": f"{_METADATA}:ReadSmallWarm",
    "absent": f"{_METADATA}:Absent",
    "create": f"{_METADATA}:Create",
    "rename": f"{_METADATA}:Rename",
    "hard-links": f"{_METADATA}:HardLinks",
    "xattrs": f"{_METADATA}:Xattrs",
    "remove-tree": f"{_METADATA}:RemoveTree",
    "copy-up-small": f"{_METADATA}:CopyUpSmall",
    "copy-up-large": f"{_METADATA}:CopyUpLarge",
    "read-cold": f"{_DATA}:ReadCold",
    "read": f"{_DATA}:Read",
    "random-read": f"{_DATA}:RandomRead",
    "write": f"{_DATA}:Write",
    "random-write": f"{_DATA}:RandomWrite",
    "mmap-read": f"{_DATA}:MmapRead",
    "fsync": f"{_DATA}:Fsync",
    "unpack-sources": f"{_REAL}:UnpackSources",
    "git-checkout": f"{_REAL}:GitCheckout",
    "compileall": f"{_REAL}:CompileAll",
    "import-cold": f"{_REAL}:ImportCold",
    "import-warm": f"{_REAL}:ImportWarm",
    "sqlite": f"{_REAL}:Sqlite",
    "install-package": f"{_REAL}:InstallPackage",
}

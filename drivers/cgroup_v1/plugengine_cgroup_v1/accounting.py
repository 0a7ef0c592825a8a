"""Read the accounting of a group."""

from __future__ import annotations

from plugengine.cgroups.filesystem import keyed, read
from plugengine.model import CgroupStats, Record

# mm/page_counter: "no limit" is the largest number of pages, in bytes
_NO_LIMIT = 1 << 62


def stats(record: Record) -> CgroupStats:
    """Return what the controllers that are there count; a group that is gone has used nothing we know of."""
    files = _Files(record["groups"])
    limit = files.number("memory", "memory.limit_in_bytes")
    read_bytes, write_bytes = files.transferred()
    return CgroupStats(
        cpu_usage_ns=files.number("cpuacct", "cpuacct.usage"),
        memory_bytes=files.memory(),
        memory_limit_bytes=None if limit is None or limit >= _NO_LIMIT else limit,
        pids=files.number("pids", "pids.current"),
        read_bytes=read_bytes,
        write_bytes=write_bytes,
        oom_kills=keyed(files.text("memory", "memory.oom_control")).get("oom_kill", 0),
    )


class _Files:
    def __init__(self, groups: dict[str, str]) -> None:
        self._groups = groups

    def text(self, controller: str, file: str) -> str:
        """Return the content, empty when there is none."""
        directory = self._groups.get(controller)
        if directory is None:
            return ""
        try:
            return read(f"{directory}/{file}")
        except OSError:
            return ""

    def number(self, controller: str, file: str) -> int | None:
        """Return the only number in a file."""
        text = self.text(controller, file).strip()
        return int(text) if text.isdigit() else None

    def memory(self) -> int | None:
        """Return the memory in use without the page cache the kernel would give back first, as docker shows it."""
        usage = self.number("memory", "memory.usage_in_bytes")
        if usage is None:
            return None
        inactive = keyed(self.text("memory", "memory.stat")).get("total_inactive_file", 0)
        return max(usage - inactive, 0)

    def transferred(self) -> tuple[int | None, int | None]:
        """Return bytes read and written, of all disks; the lines are "major:minor Operation bytes"."""
        for file in ("blkio.throttle.io_service_bytes_recursive", "blkio.bfq.io_service_bytes_recursive"):
            text = self.text("blkio", file)
            if text:
                lines = [line.split() for line in text.splitlines()]
                totals = {
                    operation: sum(int(line[2]) for line in lines if line[1:2] == [operation])
                    for operation in ("Read", "Write")
                }
                return totals["Read"], totals["Write"]
        return None, None

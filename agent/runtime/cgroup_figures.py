"""What the kernel counts for a container: CPU, memory, processes, block I/O, OOM kills, of cgroup v1 or v2."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from agent.errors import NotFound
from agent.kernel.process import read_small_file
from agent.runtime.cgroup_tree import CgroupTree
from agent.values import frozen

_MAX_FILE = 1 << 20
_UNLIMITED = 1 << 62


@frozen
class CgroupFigures:
    """One reading; counters only grow. What the host's kernel does not count is 0, no memory limit None.

    ``memory_bytes`` is the working set as ``docker stats`` shows it: without the file pages that could go at once.
    Block I/O of cgroup v1 is counted, since Linux 6.10, only on disks for which somebody once set a throttling rule.
    """

    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    memory_limit_bytes: int | None = None
    pids: int = 0
    oom_kills: int = 0
    block_read_bytes: int = 0
    block_written_bytes: int = 0


def read_figures(tree: CgroupTree, container_id: str) -> CgroupFigures:
    """Read a container's files. Raises NotFound when its cgroups are gone."""
    reading = _Reading(tree, container_id)
    memory, limit = reading.memory()
    read, written = reading.block()
    figures = CgroupFigures(
        reading.cpu(), memory, limit, _number(reading.text("pids", "pids.current", "pids.current")),
        reading.oom_kills(), read, written,
    )  # fmt: skip
    if reading.missing and not reading.exists():
        raise NotFound(f"container {container_id} has no cgroups", reason="CgroupMissing")
    return figures


class _Reading:
    """One container's files; ``missing`` when a file that should be there was not."""

    def __init__(self, tree: CgroupTree, container_id: str) -> None:
        self._tree = tree
        self._id = container_id
        self.missing = False

    def exists(self) -> bool:
        return all((directory / self._id).is_dir() for directory in self._tree.directories)

    def version(self, controller: str) -> int:
        place = self._tree.find(controller)
        return place.version if place else 0

    def text(self, controller: str, v1: str, v2: str) -> bytes:
        """The file of a controller; empty when there is none."""
        place = self._tree.find(controller)
        if place is None:
            return b""
        return self._read(place.directory, v1 if place.version == 1 else v2)

    def _read(self, directory: Path, name: str) -> bytes:
        try:
            return read_small_file(f"{directory}/{self._id}/{name}", _MAX_FILE)
        except OSError:
            self.missing = True
            return b""

    def cpu(self) -> float:
        if self.version("cpuacct") == 1:
            return _number(self.text("cpuacct", "cpuacct.usage", "")) / 1e9
        if self._tree.unified is None:
            return 0.0
        return _field(self._read(self._tree.unified, "cpu.stat"), b"usage_usec") / 1e6

    def memory(self) -> tuple[int, int | None]:
        if not self.version("memory"):
            return 0, None
        usage = _number(self.text("memory", "memory.usage_in_bytes", "memory.current"))
        name = b"total_inactive_file" if self.version("memory") == 1 else b"inactive_file"
        idle = _field(self.text("memory", "memory.stat", "memory.stat"), name)
        limit = _number(self.text("memory", "memory.limit_in_bytes", "memory.max"))
        return usage - idle if idle < usage else usage, limit if 0 < limit < _UNLIMITED else None

    def oom_kills(self) -> int:
        return _field(self.text("memory", "memory.oom_control", "memory.events"), b"oom_kill")

    def block(self) -> tuple[int, int]:
        if self.version("blkio") == 1:
            return sum_v1_block(self.text("blkio", "blkio.throttle.io_service_bytes_recursive", "").splitlines())
        return sum_v2_block(self.text("io", "", "io.stat").split())


def _number(text: bytes) -> int:
    """A file that holds one number; 0 for anything else, "max" included."""
    text = text.strip()
    return int(text) if text.isdigit() else 0


def _field(text: bytes, name: bytes) -> int:
    """The number after ``name`` in a file of ``name number`` lines."""
    key = b"\n" + name + b" "
    _, found, rest = (b"\n" + text).partition(key)
    return _number(rest.partition(b"\n")[0]) if found else 0


def sum_v1_block(lines: Iterable[bytes]) -> tuple[int, int]:
    """Bytes read and written over all devices, of ``8:0 Read 4096`` lines."""
    sums = {b"Read": 0, b"Write": 0}
    for line in lines:
        words = line.split()
        if len(words) == 3 and words[1] in sums:
            sums[words[1]] += _number(words[2])
    return sums[b"Read"], sums[b"Write"]


def sum_v2_block(words: Iterable[bytes]) -> tuple[int, int]:
    """Bytes read and written over all devices, of ``8:0 rbytes=4096 wbytes=0 ...`` lines."""
    sums = {b"rbytes": 0, b"wbytes": 0}
    for word in words:
        key, _, value = word.partition(b"=")
        if key in sums:
            sums[key] += _number(value)
    return sums[b"rbytes"], sums[b"wbytes"]

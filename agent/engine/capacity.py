"""What this host has to give: memory, room on disk, free ports. Quick enough to be asked on an event loop."""

from __future__ import annotations

import os
import re
from pathlib import Path

from agent.network.claims import Claims
from agent.network.model import Port

_MEMORY = re.compile(r"^(MemTotal|MemAvailable):\s+(\d+) kB$", re.MULTILINE)


class Capacity:
    """Read anew at each call."""

    def __init__(self, data_root: Path, meminfo: Path = Path("/proc/meminfo")) -> None:
        self._data_root = data_root
        self._meminfo = meminfo

    def memory(self) -> int:
        """The host's memory in bytes; 0 when nobody can tell."""
        return self._read_memory().get("MemTotal", 0)

    def available_memory(self) -> int | None:
        """The bytes of it that could be had now without swapping, as the kernel estimates; None when it does not."""
        return self._read_memory().get("MemAvailable")

    def _read_memory(self) -> dict[str, int]:
        try:
            text = self._meminfo.read_text()
        except OSError:
            return {}
        return {name: int(count) * 1024 for name, count in _MEMORY.findall(text)}

    def room(self) -> tuple[int, int]:
        """The bytes that are free, and all there are, of the data root's file system. Raises OSError."""
        found = os.statvfs(self._data_root)
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize

    def port_fault(self, host_ip: str, number: int, protocol: str) -> str:
        """Why a port of this host, which this agent does not hold, cannot be published; empty when it can."""
        claims = Claims()
        try:
            _, conflicts = claims.update([Port("" if host_ip == "0.0.0.0" else host_ip, number, protocol)])
        finally:
            claims.close()
        return str(conflicts[0]) if conflicts else ""

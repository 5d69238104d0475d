"""OOM kills of a cgroup: told live by the kernel, and counted in a file that is read at the end."""

from __future__ import annotations

import os

from agent.kernel.process import read_small_file
from agent.runtime.keeper.loop import READ, URGENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.runtime.keeper.loop import Loop


def read_oom_kills(path: str) -> int:
    """The ``oom_kill`` line of memory.oom_control (v1) or memory.events (v2); 0 when it cannot be read."""
    try:
        text = read_small_file(path, 65536)
    except (OSError, ValueError):
        return 0
    for line in text.split(b"\n"):
        key, _, value = line.partition(b" ")
        if key == b"oom_kill" and value.isdigit():
            return int(value)
    return 0


class OomWatch:
    """Calls ``on_kill`` when the counter has grown. ``version`` is "v1" or "v2"."""

    __slots__ = ("_fds", "_loop", "_on_kill", "_version", "kills", "path")

    def __init__(self, loop: Loop, version: str, path: str, on_kill: Callable[[], None]) -> None:
        self._loop = loop
        self._version = version
        self._on_kill = on_kill
        self.path = path
        self.kills = 0
        self._fds: list[int] = []
        try:
            self._open()
        except OSError:
            self.close()

    def _open(self) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC
        if self._version == "v2":
            self._fds.append(os.open(self.path, flags))
            os.read(self._fds[0], 4096)
            self._loop.watch(self._fds[0], self._on_event, URGENT)
            return
        self._fds.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        control = os.open(self.path, flags)
        register = os.open(f"{os.path.dirname(self.path)}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(register, f"{self._fds[0]} {control}".encode())
        finally:
            os.close(register)
            os.close(control)
        self._loop.watch(self._fds[0], self._on_event, READ)

    def _on_event(self, _events: int) -> None:
        try:
            if self._version == "v2":
                os.pread(self._fds[0], 4096, 0)
            else:
                os.eventfd_read(self._fds[0])
        except OSError:
            self.close()
        if self.count():
            self._on_kill()

    def count(self) -> bool:
        """Read the counter; True when it has grown since the last time."""
        before, self.kills = self.kills, max(self.kills, read_oom_kills(self.path))
        return self.kills > before

    def close(self) -> None:
        """Stop watching."""
        for descriptor in self._fds:
            self._loop.forget(descriptor)
            os.close(descriptor)
        self._fds = []

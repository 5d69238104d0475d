"""How a container tells that it runs: it writes a line into a FIFO, whoever started it."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

INSIDE = "/marks"
SCRIPT = f"echo up >{INSIDE}/up; exec sleep 86400"
COMMAND = ("sh", "-c", SCRIPT)


class Marks:
    """One FIFO in a directory that is to be mounted at INSIDE."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        os.mkfifo(directory / "up", 0o666)
        self._descriptor = os.open(directory / "up", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def drain(self) -> None:
        """Forget what was said so far."""
        try:
            while os.read(self._descriptor, 65536):
                continue
        except BlockingIOError:
            return

    def wait(self, count: int, seconds: float = 120.0) -> float:
        """The moment (perf_counter) at which ``count`` containers had said that they run. Raises RuntimeError."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        deadline, seen = time.perf_counter() + seconds, 0
        while seen < count:
            rest = deadline - time.perf_counter()
            if rest <= 0 or not poll.poll(rest * 1000):
                raise RuntimeError(f"{seen} of {count} containers came up in {seconds:g} s")
            seen += os.read(self._descriptor, 65536).count(b"\n")
        return time.perf_counter()

    def close(self) -> None:
        os.close(self._descriptor)

"""A test that hangs where no signal reaches it ends the run with a report instead of never.

pytest-timeout interrupts a test that waits in Python. A worker that is stopped, frozen, or stuck in the kernel or in
a C call has to be looked at from outside: this thread of the controlling process does so, and kills it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PATIENCE_SECONDS = 600.0
LOOK_SECONDS = 5.0
FIELDS = ("State", "SigBlk", "SigPnd", "ShdPnd", "SigCgt")


class StallWatch:
    """Told of each test's start and end; after ``patience`` seconds without an end, reports and kills the workers."""

    def __init__(self, patience: float = PATIENCE_SECONDS, look: float = LOOK_SECONDS) -> None:
        self._patience = patience
        self._look = look
        self._running: dict[str, float] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall-watch", daemon=True)

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def started(self, test: str) -> None:
        self._running[test] = time.monotonic()

    def ended(self, test: str) -> None:
        self._running.pop(test, None)

    def _watch(self) -> None:
        while not self._closed.wait(self._look):
            late = time.monotonic() - self._patience
            stalled = [test for test, since in dict(self._running).items() if since < late]
            if stalled:
                self._end(stalled)

    def _end(self, stalled: list[str]) -> None:
        lines = [f"\nstalled for {self._patience:.0f} s: {test}" for test in stalled]
        family = list(find_family(os.getpid()))
        for pid in family:
            lines += describe_process(pid)
        print("\n".join(lines), file=sys.__stderr__, flush=True)
        for test in stalled:
            self.ended(test)
        for kind in (signal.SIGABRT, signal.SIGKILL):  # the first makes Python print where every thread stands
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, kind)
            self._closed.wait(self._look)


def find_family(pid: int) -> Iterator[int]:
    """The descendants of a process, the process itself left out."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, read(task).split()):
            yield child
            yield from find_family(child)


def describe_process(pid: int) -> list[str]:
    """What the kernel tells of a process and its threads: command, states, where they wait."""
    command = read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ")[:200]
    lines = [f"  process {pid}: {command}"]
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        status = dict(line.split(":", 1) for line in read(task / "status").splitlines() if ":" in line)
        lines.append(f"    thread {task.name}: " + " ".join(f"{key}={status.get(key, '').strip()}" for key in FIELDS))
        lines.append(f"      syscall {read(task / 'syscall').strip()} in {read(task / 'wchan').strip()}")
        lines += [f"      {line}" for line in read(task / "stack").splitlines()]
    return lines


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

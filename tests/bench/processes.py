"""What processes cost: proportional memory and processor time, read from /proc."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def read_pss(pids: Collection[int]) -> float:
    """Proportional set size of all together, in MB."""
    return sum(_read_process(pid) for pid in pids) / 1024


def _read_process(pid: int) -> int:
    """Kilobytes; none for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def read_rss(pid: int) -> float:
    """Resident memory now, in MB; none for a process that has ended."""
    return _read_status(pid, "VmRSS:")


def read_peak(pid: int) -> float:
    """The most resident memory since the last ``reset_peak``, in MB."""
    return _read_status(pid, "VmHWM:")


def reset_peak(pid: int) -> bool:
    """Let the peak begin anew from what is resident (proc_pid_clear_refs(5)); whether the process is there."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _read_status(pid: int, key: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


class Helpers:
    """The processes that some others start while a block runs: the most proportional memory of all together in MB,
    looked at twenty times a second.

    Until its execve a child of vfork(2) shows the parent's memory as its own: it counts from its own command line on.
    """

    def __init__(self, parents: Collection[int]) -> None:
        self._parents = parents
        self._known = set(self._find())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0.0

    def __enter__(self) -> Helpers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self.peak = max(self.peak, read_pss(set(self._find()) - self._known))

    def _find(self) -> Iterator[int]:
        for parent in self._parents:
            line = _read_line(parent)
            for path in Path("/proc").glob(f"{parent}/task/*/children"):
                try:
                    children = map(int, path.read_text().split())
                except OSError:
                    continue
                yield from (child for child in children if _read_line(child) != line)


def _read_line(pid: int) -> bytes:
    """The command line; empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def read_seconds(pids: Collection[int]) -> float:
    """Processor time of all together, by the scheduler's own clock."""
    return sum(_read_threads(pid) for pid in pids) / 1e9


def _read_threads(pid: int) -> int:
    nanoseconds = 0
    for path in Path("/proc").glob(f"{pid}/task/*/schedstat"):
        try:
            nanoseconds += int(path.read_text().split()[0])
        except OSError:
            continue
    return nanoseconds


def read_spent(pids: Collection[int]) -> float:
    """Processor seconds of all together and of their children that have ended, in steps of a clock tick."""
    return sum(_read_ticks(pid) for pid in pids) / _TICKS


def _read_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(int(field) for field in fields[11:15])


def find_serving(run_root: Path) -> set[int]:
    """The processes of Holdfast's own names that were started for a run root."""
    found = set()
    for pid in find_named("holdfast-"):
        if f"'{run_root}'".encode() in _read_line(pid):
            found.add(pid)
    return found


def find_named(*names: str) -> set[int]:
    """The processes of these names (as ps shows them) in our own namespace."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name = (entry / "comm").read_text().strip()
        except OSError:
            continue
        if any(name.startswith(wanted[:15]) for wanted in names):
            found.add(int(entry.name))
    return found

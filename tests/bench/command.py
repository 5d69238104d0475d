"""Running the contenders' command lines."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Sequence


def run(command: Sequence[str], *, seconds: float = 300.0) -> str:
    """Its output. Raises RuntimeError when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout.strip()


def time_command(command: Sequence[str], *, seconds: float = 300.0) -> float:
    """Milliseconds that it takes; its output goes nowhere. Raises RuntimeError when it fails."""
    begun = time.perf_counter()
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False, timeout=seconds
    )
    taken = (time.perf_counter() - begun) * 1e3
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-400:]}")
    return taken


def run_all(commands: Iterable[Sequence[str]]) -> None:
    """All at the same time. Raises RuntimeError when one fails."""
    processes = [
        (command, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        for command in commands
    ]
    ends = [(command, process.communicate()[1], process.returncode) for command, process in processes]
    for command, error, code in ends:
        if code:
            raise RuntimeError(f"{' '.join(command)}: exit {code}: {error.strip()[-400:]}")

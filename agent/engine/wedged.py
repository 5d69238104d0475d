"""Containers that do not die: what their processes are doing, for people to read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from agent.errors import Waiting

LISTED = 3
WEDGED_SECONDS = 5.0
_STATES = {
    "D": "in uninterruptible sleep",
    "T": "stopped",
    "t": "stopped by a tracer",
    "Z": "a zombie",
    "R": "running",
    "S": "sleeping",
    "I": "idle",
}


class ContainerWedged(Waiting):
    """A container does not end although SIGKILL was sent to all of its processes."""

    reason = "ContainerWedged"


def describe_wedged(pids: Iterable[int], proc: Path = Path("/proc")) -> str:
    """What a container that survives SIGKILL is told to be: its processes with state and kernel function, those that
    cannot be killed first."""
    found = [fact for pid in pids if (fact := _read(proc / str(pid), pid)) is not None]
    found.sort(key=lambda fact: (fact[0] not in "Dt", fact[0] == "Z"))
    shown = "; ".join(text for _, text in found[:LISTED])
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return f"does not end although killed: {shown or 'none of its processes can be seen'}{more}"


def _read(directory: Path, pid: int) -> tuple[str, str] | None:
    """The state of one process; None when it has ended."""
    try:
        with (directory / "stat").open("rb") as file:
            text = file.read(4096).decode(errors="replace")
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    state = rest.split()[0] if rest.split() else "?"
    try:
        with (directory / "wchan").open("rb") as file:
            where = file.read(64).decode(errors="replace")
    except OSError:
        where = ""
    place = f" in {where}" if where not in ("", "0") else ""
    return state, f"process {pid} ({name[:32]}) is {_STATES.get(state, 'in state')} ({state}){place}"

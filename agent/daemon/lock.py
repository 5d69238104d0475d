"""One agent per run root and per data root, held by flock(2): it ends with the process, however that ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from agent.errors import Conflict


def hold_lock(path: Path, what: str) -> int:
    """Lock ``path`` until this process ends and note our pid in it; the descriptor keeps it. Raises Conflict."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise Conflict(
            f"another agent (pid {owner}) uses {what} {path.parent}",
            reason="AlreadyRunning",
            hint="stop it, or give this one its own --data-root and --run-root",
        ) from None
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor

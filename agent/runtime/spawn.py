"""Starting the keeper as a daemon of its own: no child of the agent, no terminal, one per run root."""

from __future__ import annotations

import os
import select
from pathlib import Path

from agent.errors import Waiting
from agent.kernel.daemons import start_daemon
from agent.runtime.keeper.sealed import find_package_root
from agent.runtime.wire import JOURNAL_NAME

_BOOT = """\
import os, sys
if os.fork(): os._exit(0)
sys.path.insert(0, {root!r})
from agent.kernel.daemons import start_daemon
from agent.runtime.keeper.sealed import execute_sealed
execute_sealed(sys.executable, {root!r}, {options!r})
"""
_PATIENCE_SECONDS = 20.0


def spawn_keeper(run_root: Path) -> bool:
    """Start a keeper and wait until it listens. False when another one holds the run root's lock.

    Its complaints go to ``keeper.log`` in the run root. Raises Waiting when it does not come up.
    """
    run_root.mkdir(mode=0o700, parents=True, exist_ok=True)
    ready, told = os.pipe()
    try:
        _start(run_root.resolve(), told)
    finally:
        os.close(told)
    try:
        poll = select.poll()
        poll.register(ready, select.POLLIN)
        if not poll.poll(_PATIENCE_SECONDS * 1000):
            raise Waiting("the keeper does not come up", reason="KeeperUnavailable", hint=f"see {run_root}/keeper.log")
        return os.read(ready, 1) == b"r"
    finally:
        os.close(ready)


def _start(run_root: Path, told: int) -> None:
    root = find_package_root()
    code = _BOOT.format(root=root, options={"run_root": str(run_root), "ready": told})
    journal = os.open(run_root / JOURNAL_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        start_daemon(code, journal, told)
    finally:
        os.close(journal)

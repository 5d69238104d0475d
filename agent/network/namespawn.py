"""Starting the name server as a daemon of its own: no child of the agent, no terminal, its own session.

It is not sealed as the keeper is: it has no children and never enters a container, so nothing in one leads to it.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import agent
from agent.errors import Waiting
from agent.kernel.daemons import start_daemon
from agent.network.nameserver.protocol import JOURNAL_NAME

_BOOT = """\
import os, sys
if os.fork(): os._exit(0)
sys.path.insert(0, {root!r})
from agent.kernel.daemons import start_daemon
from agent.network.nameserver.main import main
main({options!r})
"""

_MAX_JOURNAL_BYTES = 1 << 20

Upstream = tuple[tuple[str, int], ...] | None


def spawn_name_server(run_root: Path, upstreams: Upstream) -> socket.socket:
    """Start a name server; the returned connection leads to it, and ends at once when another one has the run root.

    Its complaints go to ``names.log`` in the run root. Raises OSError, and Waiting when Python does not run.
    """
    run_root.mkdir(mode=0o700, parents=True, exist_ok=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            _start(run_root.resolve(), theirs.fileno(), upstreams)
    except BaseException:
        ours.close()
        raise
    return ours


def _start(run_root: Path, client: int, upstreams: Upstream) -> None:
    root = str(Path(agent.__file__).resolve().parents[1])
    boot = _BOOT.format(root=root, options={"run_root": str(run_root), "client": client, "upstreams": upstreams})
    journal = os.open(run_root / JOURNAL_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(journal).st_size > _MAX_JOURNAL_BYTES:
            os.ftruncate(journal, 0)
        code = start_daemon(boot, journal, client, {"PATH": os.defpath, "LC_ALL": "C.UTF-8"})
    finally:
        os.close(journal)
    if code:
        raise Waiting("the name server cannot be started", reason="NamesUnavailable", hint=f"see {run_root}/names.log")

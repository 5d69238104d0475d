"""The keeper's composition root: one of everything, wired."""

from __future__ import annotations

import _socket

from agent.runtime.keeper.commands import Commands
from agent.runtime.keeper.execs import Execs
from agent.runtime.keeper.launch import Launcher
from agent.runtime.keeper.loop import Loop
from agent.runtime.keeper.record import Records
from agent.runtime.keeper.server import Server
from agent.runtime.keeper.supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Keeper:
    """Everything of one keeper process. ``lock`` is the descriptor that says there is no other."""

    def __init__(self, run_root: str, lock: int) -> None:
        self.run_root = run_root
        self.lock = lock
        self.loop = Loop()
        self.records = Records(run_root)
        self.launcher = Launcher()
        self.supervisor = Supervisor(self.loop, self.records, self.launcher, self.announce)
        self.execs = Execs(self.loop, self.launcher, self.announce)
        self.server: Server

    def announce(self, event: dict[str, Any]) -> None:
        """Tell subscribers."""
        self.server.announce(event)

    def serve(self, listener: _socket.socket, upgrade: Callable[..., None]) -> None:
        """Accept requests from now on; ``upgrade(keeper, python, root, ticket)`` replaces this process's program."""
        commands = Commands(self.supervisor, self.execs, lambda *request: upgrade(self, *request))
        self.server = Server(self.loop, listener, commands.handle, commands.on_close)

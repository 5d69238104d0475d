"""One container as the keeper holds it: its process, its line while it sets up, its logs, its end."""

from __future__ import annotations

import os

from agent.runtime.logframe import FrameWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.runtime.keeper.failure import Failure
    from agent.runtime.keeper.loop import Loop
    from agent.runtime.keeper.oom import OomWatch
    from agent.runtime.keeper.order import Order
    from agent.runtime.keeper.pump import Pump
    from agent.runtime.keeper.report import Line
    from agent.runtime.keeper.server import Ticket

CREATING, CREATED, STARTING, RUNNING, EXITED = "creating", "created", "starting", "running", "exited"
_SHOWN = {CREATING: "created", STARTING: "created"}


class Container:
    """States only grow: creating, created, starting, running, exited. ``piped``: its output comes by the two FIFOs."""

    __slots__ = (
        "autostart", "deletion", "exit", "failure", "line", "oom", "order", "own", "pid", "pidfd", "piped",
        "private_pids", "pumps", "reserved", "start_time", "started", "status", "ticket", "writer",
    )  # fmt: skip

    def __init__(self, order: Order) -> None:
        self.order = order
        self.status = CREATING
        self.pid = 0
        self.pidfd = -1
        self.start_time = 0
        self.started = 0.0
        self.own = True
        self.piped = False
        self.private_pids = True
        self.autostart = False
        self.reserved = False
        self.line: Line | None = None
        self.ticket: Ticket | None = None
        self.deletion: Ticket | None = None
        self.failure: Failure | None = None
        self.oom: OomWatch | None = None
        self.exit: dict[str, Any] | None = None
        self.pumps: list[Pump] = []
        self.writer: FrameWriter | None = None
        if order.log_directory:
            self.writer = FrameWriter(order.log_directory, order.log_size, order.log_files)

    @property
    def id(self) -> str:
        """The container's id."""
        return self.order.id

    def describe(self) -> dict[str, Any]:
        """What ``states`` tells of it."""
        status = _SHOWN.get(self.status, self.status)
        return {
            "id": self.id,
            "status": status,
            "pid": self.pid,
            "started": self.started,
            "exit": self.exit,
            "stop": self.order.stop,
            "log_dropped": self.writer.dropped if self.writer is not None else 0,
        }

    def remember(self) -> dict[str, Any]:
        """What state.json keeps of it."""
        return {
            "pid": self.pid,
            "start_time": self.start_time,
            "status": "running" if self.status in (STARTING, RUNNING) else "created",
            "started": self.started,
            "private_pids": self.private_pids,
            "order": self.order.document,
        }

    def release(self, loop: Loop, *, drain: bool) -> None:
        """Close every descriptor; with ``drain`` after the output that is still there has been logged."""
        for pump in self.pumps:
            if drain:
                pump.drain()
            else:
                pump.close()
        self.pumps = []
        if self.writer is not None:
            self.writer.close()
        if self.oom is not None:
            self.oom.close()
            self.oom = None
        self.hang_up(loop)
        if self.pidfd >= 0:
            loop.forget(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = -1

    def hang_up(self, loop: Loop) -> None:
        """Close the line to the init."""
        if self.line is not None:
            loop.forget(self.line.fileno())
            self.line.close()
            self.line = None

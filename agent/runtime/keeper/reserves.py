"""Reserves: inits forked ahead, each for a container whose id and cgroups exist already.

A reserve is nothing yet: no state tells of it and no keeper adopts it. It ends with the connection it was asked for
on, and when its order comes and does not fit, an ordinary init takes its place.
"""

from __future__ import annotations

import os

from agent.kernel import pidfd as pf
from agent.kernel.namespaces import CLONE_NEWPID
from agent.runtime.keeper.config import ContainerPlan, parse_config
from agent.runtime.keeper.failure import Failure, explain
from agent.runtime.keeper.launch import Launcher
from agent.runtime.keeper.loop import Loop
from agent.runtime.keeper.order import Board, Order, Reservation
from agent.runtime.keeper.pump import make_pipes
from agent.runtime.keeper.record import Records
from agent.runtime.keeper.report import BOARD, ORDER, Line
from agent.runtime.keeper.reserved import check_standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from agent.runtime.keeper.server import Client

_SIGKILL = 9


class Reserve:
    """One of them: ``board`` is where it went, ``owner`` who asked for it."""

    __slots__ = ("board", "id", "join", "line", "owner", "pid", "pidfd", "private_pids")

    def __init__(self, reservation: Reservation, owner: Client, *, private_pids: bool) -> None:
        self.id = reservation.id
        self.join = reservation.join
        self.owner = owner
        self.private_pids = private_pids
        self.board: Board | None = None
        self.pid = 0
        self.pidfd = -1
        self.line: Line


class Reserves:
    """All reserves of one keeper."""

    def __init__(self, loop: Loop, records: Records, launcher: Launcher) -> None:
        self._loop = loop
        self._records = records
        self._launcher = launcher
        self._waiting: dict[str, Reserve] = {}

    def make(self, document: dict[str, Any], owner: Client, taken: Collection[str]) -> int:
        """Fork one, of an id that is not ``taken``; returns its pid. Raises Failure."""
        reservation = Reservation(document)
        if reservation.id in self._waiting or reservation.id in taken:
            raise Failure("Conflict", f"{reservation.id} exists")
        plan = parse_config(reservation.config)
        check_standard(plan)
        reserve = Reserve(reservation, owner, private_pids=bool(plan.namespaces & CLONE_NEWPID))
        try:
            self._fork(reserve, plan)
        except (Failure, OSError) as error:
            self._records.remove(reserve.id)
            if isinstance(error, Failure):
                raise
            raise Failure("SetupFailed", f"reserve {reserve.id}: {explain(error)}") from None
        return reserve.pid

    def _fork(self, reserve: Reserve, plan: ContainerPlan) -> None:
        directory = self._records.create(reserve.id)
        make_pipes(directory)
        reserve.pid, reserve.pidfd, reserve.line = self._launcher.launch_reserve(reserve.join, plan, directory)
        self._waiting[reserve.id] = reserve
        self._loop.watch(reserve.pidfd, lambda _events: self._on_end(reserve))

    def board(self, document: dict[str, Any], packet: bytes) -> None:
        """Tell a reserve its root and its network, in the packet that brought them; one that is gone or does not
        understand is no loss."""
        reserve = self._waiting.get(document["id"])
        if reserve is not None and reserve.board is None and reserve.line.say(BOARD, packet):
            reserve.board = Board(document)

    def take(self, order: Order) -> Reserve | None:
        """The reserve that this order fits, with the order on its way to it; it is the caller's from now on."""
        reserve = self._waiting.get(order.id)
        if reserve is None:
            return None
        fits = reserve.board is not None and reserve.board.fits(order) and reserve.join == order.join
        if not fits or not reserve.line.say(ORDER, order.packet):
            self.drop(order.id)
            return None
        del self._waiting[order.id]
        self._loop.forget(reserve.pidfd)
        return reserve

    def drop(self, reserve_id: str) -> bool:
        """End a reserve and leave nothing of it; False when there is none of that id."""
        reserve = self._waiting.get(reserve_id)
        if reserve is None:
            return False
        end_process(reserve.pidfd)
        self._forget(reserve)
        return True

    def drop_all(self, owner: Client | None = None) -> None:
        """End all of them, or those of one connection."""
        for reserve in [one for one in self._waiting.values() if owner in (None, one.owner)]:
            self.drop(reserve.id)

    def _on_end(self, reserve: Reserve) -> None:
        """It ended before its order came: the order will find none."""
        if pf.wait_exit(reserve.pidfd) is not None:
            self._forget(reserve)

    def _forget(self, reserve: Reserve) -> None:
        self._waiting.pop(reserve.id, None)
        self._loop.forget(reserve.pidfd)
        os.close(reserve.pidfd)
        reserve.line.close()
        self._records.remove(reserve.id)


def end_process(pidfd: int) -> None:
    """Kill a child of ours and reap it."""
    try:
        pf.send_signal(pidfd, _SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except (ProcessLookupError, ChildProcessError):
        return

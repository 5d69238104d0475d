"""Containers that outlived the keeper before this one: taken over, or their end written down.

A process is recognised by boot id, pid and start time together, never by the pid alone. It is not our child: its
pidfd still tells when it ends, and the kernel (6.15 on) how, once its new parent has reaped it.
"""

from __future__ import annotations

import os
import time

from agent.kernel import pidfd as pf
from agent.runtime.keeper import container as states
from agent.runtime.keeper.container import Container
from agent.runtime.keeper.failure import Failure
from agent.runtime.keeper.loop import EDGE, READ
from agent.runtime.keeper.oom import OomWatch, read_oom_kills
from agent.runtime.keeper.order import Order
from agent.runtime.keeper.pump import open_pipes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.runtime.keeper.supervisor import Supervisor

_REAP_PATIENCE = 2.0
_SIGKILL = 9


def adopt_all(supervisor: Supervisor) -> None:
    """Take over everything that the records tell of. Never raises for one bad record."""
    for name in supervisor.records.names():
        state = supervisor.records.read_state(name)
        try:
            if state is None or state["boot_id"] != supervisor.records.boot_id:
                supervisor.records.remove(name)
                continue
            _adopt(supervisor, state)
        except (Failure, OSError, KeyError, TypeError, ValueError):
            supervisor.records.remove(name)


def _adopt(supervisor: Supervisor, state: dict[str, Any]) -> None:
    container = Container(Order(state["order"]))
    container.pid, container.start_time = int(state["pid"]), int(state["start_time"])
    container.started, container.private_pids = float(state["started"]), bool(state["private_pids"])
    container.own = False
    ended = supervisor.records.read_exit(container.id)
    if ended is not None:
        container.exit, container.status = ended, states.EXITED
        supervisor.containers[container.id] = container
        return
    container.pidfd = _open_same(container.pid, container.start_time)
    if state["status"] != "running":
        _drop_unstarted(supervisor, container)
        return
    supervisor.containers[container.id] = container
    container.status = states.RUNNING
    if container.pidfd < 0:
        _record_lost(supervisor, container)
    else:
        _follow(supervisor, container)


def _open_same(pid: int, start_time: int) -> int:
    """A pidfd of the process if it is still the same, else -1. A zombie is the same: it can be asked for its end."""
    try:
        descriptor = pf.open_process(pid)
    except OSError:
        return -1
    try:
        if pf.read_start_time(pid) == start_time:
            return descriptor
    except (OSError, ValueError, IndexError):
        pass
    os.close(descriptor)
    return -1


def _drop_unstarted(supervisor: Supervisor, container: Container) -> None:
    """An init that was never told to go ends by itself, for its line is cut; nobody waits for it."""
    if container.pidfd >= 0:
        try:
            pf.send_signal(container.pidfd, _SIGKILL)
        except OSError:
            pass
        os.close(container.pidfd)
    supervisor.records.remove(container.id)


def _record_lost(supervisor: Supervisor, container: Container) -> None:
    """It ended while no keeper was there: how, nobody knows; whether for want of memory, its cgroup does."""
    killed = bool(container.order.oom and read_oom_kills(container.order.oom[1]))
    container.exit = {"code": None, "signal": None, "oom": killed, "at": time.time()}
    container.status = states.EXITED
    supervisor.records.write_exit(container.id, container.exit)


def _follow(supervisor: Supervisor, container: Container) -> None:
    directory = supervisor.records.path(container.id)
    if container.writer is not None and os.path.exists(f"{directory}/stdout"):
        container.pumps = open_pipes(supervisor.loop, directory, container.writer)
    if container.order.oom:
        version, path = container.order.oom
        container.oom = OomWatch(supervisor.loop, version, path, lambda: supervisor.tell_oom(container))
    watch_adopted(supervisor, container)


def watch_adopted(supervisor: Supervisor, container: Container) -> None:
    """Edge-triggered: the kernel wakes us when it ends and again when it has been reaped, and is asked both times."""
    supervisor.loop.watch(container.pidfd, _End(supervisor, container).on_event, READ | EDGE)


class _End:
    """Finds out how one adopted process ended."""

    __slots__ = ("_container", "_supervisor", "_woken")

    def __init__(self, supervisor: Supervisor, container: Container) -> None:
        self._supervisor = supervisor
        self._container = container
        self._woken = False

    def on_event(self, _events: int) -> None:
        """The process has ended, or has been reaped."""
        if self._container.status == states.EXITED:
            return
        status = pf.read_exit(self._container.pidfd)
        if status is not None:
            self._supervisor.finish(self._container, *status)
        elif not self._woken:
            self._woken = True
            self._supervisor.loop.call_later(_REAP_PATIENCE, self._give_up)

    def _give_up(self) -> None:
        """Its new parent never reaped it, or the kernel is too old to tell."""
        if self._container.status != states.EXITED:
            status = pf.read_exit(self._container.pidfd)
            self._supervisor.finish(self._container, *(status or (None, None)))

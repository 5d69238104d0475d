"""All containers of one keeper: made, started, signalled, ended, forgotten.

A container's states and what moves it on (events of the line and of the pidfd)::

    creating --ready--> created --start--> starting --execve--> running --exit--> exited --delete--> gone
        \\---error-------------------------------/ (the child is reaped, the caller is told, nothing is left)

One that starts by itself ("run") is starting from the fork on: it is told to go before it asks.
"""

from __future__ import annotations

import os
import time

from agent.kernel import pidfd as pf
from agent.kernel.namespaces import CLONE_NEWPID
from agent.runtime.keeper import container as states
from agent.runtime.keeper.config import ContainerPlan, ProcessPlan, read_config, read_told
from agent.runtime.keeper.container import Container
from agent.runtime.keeper.failure import Failure, explain
from agent.runtime.keeper.killing import kill_everyone, kill_process
from agent.runtime.keeper.launch import Launcher
from agent.runtime.keeper.loop import HANGUP, READ, Loop
from agent.runtime.keeper.oom import OomWatch
from agent.runtime.keeper.order import Order
from agent.runtime.keeper.pump import Pump, give_pipes, make_pipes, open_pipes
from agent.runtime.keeper.record import Records
from agent.runtime.keeper.reserved import UNFIT
from agent.runtime.keeper.reserves import Reserves, end_process
from agent.runtime.keeper.rootfs import forget_mount
from agent.runtime.logframe import STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.runtime.keeper.server import Ticket

SIGKILL = 9


class Supervisor:
    """``announce`` tells subscribers of an event."""

    def __init__(
        self, loop: Loop, records: Records, launcher: Launcher, announce: Callable[[dict[str, Any]], None]
    ) -> None:
        self.loop = loop
        self.records = records
        self.launcher = launcher
        self.reserves = Reserves(loop, records, launcher)
        self.containers: dict[str, Container] = {}
        self._announce = announce

    def find(self, container_id: object) -> Container:
        """The container. Raises Failure NotFound."""
        found = self.containers.get(container_id) if isinstance(container_id, str) else None
        if found is None:
            raise Failure("NotFound", f"no container {container_id}")
        return found

    def create(self, order: Order, ticket: Ticket, *, autostart: bool) -> None:
        """Fork the init; the ticket is answered when it is set up, or with ``autostart`` when it runs."""
        if order.id in self.containers:
            raise Failure("Conflict", f"container {order.id} exists")
        container = Container(order)
        container.autostart, container.ticket = autostart, ticket
        reserve = self.reserves.take(order)
        if reserve is not None:
            container.reserved, container.private_pids = True, reserve.private_pids
            container.pid, container.pidfd, container.line = reserve.pid, reserve.pidfd, reserve.line
        self._create(container)

    def _create(self, container: Container) -> None:
        """With an init from the reserves, which is at work already, or one that is forked now."""
        order = container.order
        try:
            if container.reserved and order.config is not None:
                self._launch(container, read_told(order.config))
            else:
                self._launch_planned(container, read_config(order.bundle))
        except (Failure, OSError) as error:
            if container.reserved:
                end_process(container.pidfd)
            self._discard(container)
            if isinstance(error, Failure):
                raise
            raise Failure("SetupFailed", f"prepare {order.id}: {explain(error)}") from None

    def _launch_planned(self, container: Container, plan: ContainerPlan) -> None:
        order = container.order
        if plan.seccomp and not order.seccomp:
            raise Failure("InvalidRequest", "config.json wants a seccomp filter and none was given")
        container.private_pids = bool(plan.namespaces & CLONE_NEWPID)
        self._launch(container, plan.process, plan)

    def _launch(self, container: Container, process: ProcessPlan, plan: ContainerPlan | None = None) -> None:
        """Without a ``plan`` the init is at work and has it."""
        order = container.order
        directory = self.records.path(order.id)
        if not container.reserved:
            self.records.create(order.id)
            make_pipes(directory)
        container.piped = container.writer is not None and not process.terminal
        if container.piped:
            give_pipes(directory, process.uid, process.gid)
        if not container.reserved and plan is not None:
            container.pid, container.pidfd, container.line = self.launcher.launch(order, plan, directory)
        self.containers[order.id] = container
        container.start_time = pf.read_start_time(container.pid)
        self.watch(container)
        if container.autostart:
            self._start(container)

    def watch(self, container: Container) -> None:
        """Follow the container's process and, while it has one, its line.

        Of one that starts by itself and brings no terminal only the line's end matters: one wake-up, not four.
        """
        if container.line is not None:
            events = HANGUP if container.autostart and container.piped else READ
            self.loop.watch(container.line.fileno(), lambda _events: self._on_line(container), events)
        self.loop.watch(container.pidfd, lambda _events: self._on_process(container))

    def _watch_oom(self, container: Container) -> None:
        version, path = container.order.oom or ("", "")
        container.oom = OomWatch(self.loop, version, path, lambda: self.tell_oom(container))

    def tell_oom(self, container: Container) -> None:
        """Announce that the kernel killed something in the container for want of memory."""
        self._tell(container, "oom", oom=True)

    def _on_line(self, container: Container) -> None:
        while container.line is not None and (message := container.line.receive()) is not None:
            kind, terminal, failure = message
            if kind == "ready":
                self._on_ready(container, terminal)
            elif kind == "error":
                container.failure = failure
            else:
                launched = container.line.launching
                container.hang_up(self.loop)
                if launched and container.failure is None:
                    self._on_running(container)

    def _on_ready(self, container: Container, terminal: int) -> None:
        if terminal >= 0 and container.writer is not None:
            container.pumps.append(Pump(self.loop, terminal, STDOUT, container.writer))
        elif terminal >= 0:
            os.close(terminal)
        if container.status == states.CREATING:
            container.status = states.CREATED
            self._answer(container)

    def start(self, container_id: object, ticket: Ticket) -> None:
        """Let a container run that is created, or being so; the ticket is answered when its program is executed.

        So is that of a create which is under way: one answer more would be one more thing to do meanwhile.
        """
        container = self.find(container_id)
        if container.status not in (states.CREATING, states.CREATED) or container.autostart:
            raise Failure("Conflict", f"container {container.id} is {container.status}")
        ticket.other, container.ticket = container.ticket, ticket
        self._start(container)

    def _start(self, container: Container) -> None:
        """Take up the output of one that is to run, write it down, and tell it that it need not wait.

        The kernel forgets what is in a FIFO when nobody has it open: a program that has ended leaves its output only to
        who was there before. OOM kills are counted, so those are looked after meanwhile. When something fails it is
        ended, and its end tells the caller why. Before it needs no record: its init ends with us.
        """
        container.status = states.STARTING
        container.started = time.time()
        try:
            if container.piped and container.writer is not None:
                container.pumps = open_pipes(self.loop, self.records.path(container.id), container.writer)
            self.records.write_state(container.id, container.remember())
            if container.line is not None:
                if container.piped and not container.autostart:
                    self.loop.change(container.line.fileno(), HANGUP)
                container.line.go()
            if container.order.oom and container.oom is None:
                self._watch_oom(container)
        except OSError as error:
            container.failure = Failure("SetupFailed", f"start {container.id}: {explain(error)}")
            kill_process(container.pidfd, SIGKILL, container.id)

    def _on_running(self, container: Container) -> None:
        container.status = states.RUNNING
        self._answer(container)
        self._tell(container, "started", at=container.started)

    def _answer(self, container: Container) -> None:
        ticket, container.ticket = container.ticket, None
        if ticket is not None:
            ticket.answer({"pid": container.pid})

    def _on_process(self, container: Container) -> None:
        try:
            status = pf.wait_exit(container.pidfd)
        except ChildProcessError:
            status = (None, None)
        if status is None:
            return
        self._on_line(container)
        if container.status in (states.RUNNING, states.CREATED) and container.failure is None:
            self.finish(container, *status)
        else:
            self._abort(container, *status)

    def _abort(self, container: Container, code: int | None, signal: int | None) -> None:
        """It never ran: tell the caller why, and leave nothing. Where a reserve did not fit a fresh init tries."""
        if container.failure is not None and container.failure.reason == UNFIT and container.deletion is None:
            self._create_again(container)
            return
        how = f"signal {signal}" if signal else f"code {code}"
        failure = container.failure or Failure("SetupFailed", f"the set-up was ended by {how}")
        self._discard(container)
        if container.ticket is not None:
            container.ticket.refuse(failure)
        if container.deletion is not None:
            container.deletion.answer({})

    def _create_again(self, container: Container) -> None:
        fresh = Container(container.order)
        fresh.autostart = container.autostart or container.status == states.STARTING
        fresh.ticket = container.ticket
        del self.containers[container.id]
        container.release(self.loop, drain=False)
        try:
            forget_mount(container.order.work)
            self._create(fresh)
        except (Failure, OSError) as error:
            failure = error if isinstance(error, Failure) else Failure("SetupFailed", explain(error))
            if fresh.ticket is not None:
                fresh.ticket.refuse(failure)

    def _discard(self, container: Container) -> None:
        self.containers.pop(container.id, None)
        container.release(self.loop, drain=False)
        try:
            self.records.remove(container.id)
        except OSError as error:
            raise Failure("HostError", f"remove the record of {container.id}: {explain(error)}") from None

    def finish(self, container: Container, code: int | None, signal: int | None) -> None:
        """It has ended: log the last output, write exit.json, then tell. ``(None, None)`` is "nobody knows"."""
        if not container.private_pids:
            kill_everyone(container.order, SIGKILL)
        if container.oom is not None and container.oom.count():
            self.tell_oom(container)
        killed = container.oom is not None and container.oom.kills > 0
        status = {"code": code, "signal": signal, "oom": killed, "at": time.time()}
        container.release(self.loop, drain=True)
        container.exit, container.status = status, states.EXITED
        try:
            self.records.write_exit(container.id, status)
        finally:
            self._tell(container, "exited", **status)

    def _tell(self, container: Container, kind: str, **fields: Any) -> None:
        self._announce({"kind": kind, "id": container.id, "pid": container.pid, "at": time.time(), **fields})

    def kill(self, container_id: object, number: int, *, everyone: bool) -> None:
        """Signal the first process, or all in the cgroup. Raises Failure when it has ended."""
        container = self.find(container_id)
        if container.status == states.EXITED:
            raise Failure("NotRunning", f"container {container.id} has ended")
        if everyone:
            kill_everyone(container.order, number)
            if number != SIGKILL:
                return
        kill_process(container.pidfd, number, container.id)

    def delete(self, container_id: object, ticket: Ticket) -> None:
        """Forget an ended container, or end a reserve or one that was never started. Raises Failure while it runs."""
        if isinstance(container_id, str) and self.reserves.drop(container_id):
            ticket.answer({})
            return
        container = self.find(container_id)
        if container.status == states.RUNNING:
            raise Failure("Conflict", f"container {container.id} is running")
        if container.status == states.EXITED:
            self._discard(container)
            ticket.answer({})
            return
        refused, container.ticket = container.ticket, None
        if refused is not None:
            refused.refuse(Failure("Conflict", f"container {container.id} was deleted"))
        container.failure = Failure("Conflict", "deleted")
        container.deletion = ticket
        kill_process(container.pidfd, SIGKILL, container.id)

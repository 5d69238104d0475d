"""Further processes in running containers: forked into the container's pid namespace, tended until they end."""

from __future__ import annotations

import os
import time

from agent.kernel import namespaces as ns
from agent.kernel import pidfd as pf
from agent.kernel import terminals
from agent.runtime.keeper import container as states
from agent.runtime.keeper.config import parse_id, read_config
from agent.runtime.keeper.entering import Entry
from agent.runtime.keeper.failure import Failure, explain
from agent.runtime.keeper.killing import kill_process
from agent.runtime.keeper.launch import fork
from agent.runtime.keeper.order import check_id
from agent.runtime.keeper.report import Line, create_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.runtime.keeper.container import Container
    from agent.runtime.keeper.launch import Launcher
    from agent.runtime.keeper.loop import Loop
    from agent.runtime.keeper.server import Ticket

MAX_PER_CONTAINER = 256
_STDIO = 3


class Exec:
    """One of them. ``line`` is there until it runs."""

    __slots__ = ("container", "failure", "id", "line", "master", "pid", "pidfd", "ticket")

    def __init__(self, exec_id: str, container: str, line: Line | None, ticket: Ticket | None) -> None:
        self.id = exec_id
        self.container = container
        self.line = line
        self.ticket = ticket
        self.pid = 0
        self.pidfd = -1
        self.master = -1
        self.failure: Failure | None = None


class Execs:
    """All of one keeper; they are not recorded on disk."""

    def __init__(self, loop: Loop, launcher: Launcher, announce: Callable[[dict[str, Any]], None]) -> None:
        self._loop = loop
        self._launcher = launcher
        self._announce = announce
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.running: dict[str, Exec] = {}
        self._count = 0

    def names(self, container: str) -> list[str]:
        """The ids of the processes in one container."""
        return [one.id for one in self.running.values() if one.container == container]

    def start(self, container: Container, request: dict[str, Any], fds: list[int], ticket: Ticket) -> None:
        """Fork and exec; the ticket is answered with ``exec_id`` and ``pid``, and the terminal's master if any."""
        if container.status != states.RUNNING:
            raise Failure("NotRunning", f"container {container.id} is not running")
        if len(self.names(container.id)) >= MAX_PER_CONTAINER:
            raise Failure("TooManyExecs", f"container {container.id} runs {MAX_PER_CONTAINER} execs already")
        terminal = bool(request["terminal"])
        if not terminal and len(fds) != _STDIO:
            raise Failure("InvalidRequest", "an exec without a terminal comes with three descriptors")
        exec_id = self._name(request.get("exec_id"))
        line, report = create_line()
        entry = Entry(container, self._plan(container, request), fds, report)
        entry.size = (int(request["rows"]), int(request["columns"])) if terminal else None
        entry.standing = self._launcher.standing
        _, entry.tasks, unified = self._launcher.sort_cgroups(container.order.join)
        one = Exec(exec_id, container.id, line, ticket)
        try:
            one.pid, one.pidfd = self._fork(container, entry, unified)
        except Failure:
            line.close()
            raise
        self.running[exec_id] = one
        self.watch(one)

    def _name(self, wanted: object) -> str:
        if wanted:
            exec_id = check_id(wanted)
            if exec_id in self.running:
                raise Failure("Conflict", f"exec {exec_id} exists")
            return exec_id
        self._count += 1
        return f"{os.getpid()}-{time.time_ns():x}-{self._count}"

    @staticmethod
    def _plan(container: Container, request: dict[str, Any]) -> Any:
        plan = read_config(container.order.bundle).process
        plan.args = [str(argument) for argument in request["args"]]
        plan.env = [str(entry) for entry in request["env"]]
        plan.cwd = str(request["cwd"])
        plan.uid, plan.gid = parse_id(request["uid"]), parse_id(request["gid"])
        plan.groups = [parse_id(group) for group in request["groups"]]
        plan.terminal = bool(request["terminal"])
        plan.effective = plan.permitted = 0 if plan.uid else plan.bounding
        plan.ambient = 0
        if not plan.args or not plan.args[0] or not plan.cwd.startswith("/"):
            raise Failure("InvalidRequest", "exec: no arguments, or a directory that is not absolute")
        if any("\0" in text for text in (*plan.args, *plan.env, plan.cwd)):
            raise Failure("InvalidRequest", "exec: an argument holds a NUL")
        return plan

    def _fork(self, container: Container, entry: Entry, unified: str | None) -> tuple[int, int]:
        """The child is born in the container's pid namespace, yet ours to reap."""
        try:
            ns.enter(container.pidfd, ns.CLONE_NEWPID)
        except OSError as error:
            raise Failure("NotRunning", f"enter container {container.id}: {explain(error)}") from None
        try:
            return fork(0, unified, entry.report, entry.run, (container.pidfd, *entry.fds))
        finally:
            ns.enter(self._own_pids, ns.CLONE_NEWPID)

    def watch(self, one: Exec) -> None:
        """Follow its process and its line."""
        if one.line is not None:
            self._loop.watch(one.line.fileno(), lambda _events: self._on_line(one))
        self._loop.watch(one.pidfd, lambda _events: self._on_process(one))

    def _on_line(self, one: Exec) -> None:
        while one.line is not None and (message := one.line.receive()) is not None:
            kind, terminal, failure = message
            if kind == "ready":
                one.master = terminal
            elif kind == "error":
                one.failure = failure
            else:
                launched = one.line.launching
                self._hang_up(one)
                if launched and one.failure is None:
                    self._answer(one)

    def _answer(self, one: Exec) -> None:
        ticket, one.ticket = one.ticket, None
        fds, one.master = [one.master] if one.master >= 0 else [], -1
        if ticket is not None:
            ticket.answer({"exec_id": one.id, "id": one.container, "pid": one.pid}, fds)

    def _hang_up(self, one: Exec) -> None:
        if one.line is not None:
            self._loop.forget(one.line.fileno())
            one.line.close()
            one.line = None

    def _on_process(self, one: Exec) -> None:
        status = pf.wait_exit(one.pidfd)
        if status is None:
            return
        self._on_line(one)
        self._loop.forget(one.pidfd)
        os.close(one.pidfd)
        del self.running[one.id]
        code, signal = status
        if one.ticket is not None:
            if one.master >= 0:
                os.close(one.master)
            how = f"signal {signal}" if signal else f"code {code}"
            one.ticket.refuse(one.failure or Failure("SetupFailed", f"the set-up was ended by {how}"))
            return
        event = {"kind": "exec_exited", "id": one.container, "exec_id": one.id, "pid": one.pid}
        self._announce({**event, "code": code, "signal": signal, "at": time.time()})

    def find(self, exec_id: object) -> Exec:
        """The exec. Raises Failure NotFound, also when it has ended."""
        found = self.running.get(exec_id) if isinstance(exec_id, str) else None
        if found is None:
            raise Failure("NotFound", f"no exec {exec_id}")
        return found

    def kill(self, exec_id: object, number: int) -> None:
        """Signal it."""
        kill_process(self.find(exec_id).pidfd, number, f"exec {exec_id}")

    def resize(self, exec_id: object, rows: int, columns: int) -> None:
        """Resize its terminal, borrowed from the process itself: the keeper holds no terminal open."""
        one = self.find(exec_id)
        for number in range(_STDIO):
            try:
                descriptor = pf.take_descriptor(one.pidfd, number)
            except OSError:
                continue
            try:
                terminals.set_size(descriptor, rows, columns)
            except OSError:
                continue
            finally:
                os.close(descriptor)
            return
        raise Failure("NotATerminal", f"exec {exec_id} has no terminal")

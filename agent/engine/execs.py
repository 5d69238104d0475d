"""Further processes in running containers, joined to whoever asked for them by descriptors."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import field

from agent.engine.model import ContainerRecord, ContainerState, ExitStatus
from agent.errors import Conflict, HoldfastError
from agent.runtime.client import KeeperClient
from agent.runtime.protocol import ExecRequest, KeeperEvent
from agent.values import frozen

_EARLY_LIMIT = 1024


@frozen
class ExecOptions:
    """How to run it. None takes the container's own value; ``env`` is added to the container's."""

    user: str | None = None
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    terminal: bool = False
    stdin: bool = False
    rows: int = 24
    columns: int = 80


@frozen
class ExecHandle:
    """A running exec. The descriptors are the caller's to close; with a terminal all three are the same pty."""

    id: str
    container: str
    stdin_fd: int
    stdout_fd: int
    stderr_fd: int
    ended: Future[ExitStatus]

    def close(self) -> None:
        """Close the descriptors that are open."""
        for descriptor in {self.stdin_fd, self.stdout_fd, self.stderr_fd} - {-1}:
            with contextlib.suppress(OSError):
                os.close(descriptor)


class Execs:
    """Starts execs and keeps their futures until the keeper says how they ended."""

    def __init__(
        self, keeper: KeeperClient, resolve: Callable[[ContainerRecord, Sequence[str], ExecOptions], ExecRequest]
    ) -> None:
        self._keeper = keeper
        self._resolve = resolve
        self._lock = threading.Lock()
        self._running: dict[str, Future[ExitStatus]] = {}
        self._early: dict[str, ExitStatus] = {}

    def start(self, record: ContainerRecord, args: Sequence[str], options: ExecOptions) -> ExecHandle:
        """Start ``args`` in a running container. Raises Conflict when it does not run."""
        if record.state not in (ContainerState.RUNNING, ContainerState.STOPPING):
            raise Conflict(f"{record.name} is {record.state}, not running", reason="NotRunning")
        request = self._resolve(record, args, options)
        if options.terminal:
            exec_id, master = self._keeper.exec(request)
            return ExecHandle(exec_id, record.id, master, master, master, self._register(exec_id))
        return self._start_piped(record, request, options.stdin)

    def _start_piped(self, record: ContainerRecord, request: ExecRequest, stdin: bool) -> ExecHandle:
        opened: list[int] = []
        try:
            in_read, in_write = _pipe(opened) if stdin else (os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1)
            if not stdin:
                opened.append(in_read)
            out_read, out_write = _pipe(opened)
            err_read, err_write = _pipe(opened)
            exec_id, _ = self._keeper.exec(request, (in_read, out_write, err_write))
        except BaseException:
            for descriptor in opened:
                os.close(descriptor)
            raise
        for descriptor in (in_read, out_write, err_write):
            os.close(descriptor)
        return ExecHandle(exec_id, record.id, in_write, out_read, err_read, self._register(exec_id))

    def resize(self, handle: ExecHandle, rows: int, columns: int) -> None:
        """Tell the terminal its new size in characters; nothing to do when the exec has ended."""
        with contextlib.suppress(HoldfastError):
            self._keeper.resize(handle.id, rows, columns)

    def kill(self, handle: ExecHandle, number: int) -> None:
        """Send a signal; nothing to do when the exec has ended."""
        self.kill_id(handle.id, number)

    def kill_id(self, exec_id: str, number: int) -> None:
        """The same by the exec's id."""
        with contextlib.suppress(HoldfastError):
            self._keeper.exec_kill(exec_id, number)

    def on_keeper_event(self, event: KeeperEvent) -> None:
        """An exec ended; may come before ``start`` has returned, so it is kept for a while."""
        if event.kind != "exec_exited":
            return
        status = ExitStatus(event.code, event.signal, event.oom, event.at)
        with self._lock:
            future = self._running.pop(event.exec_id, None)
            if future is None:
                self._early[event.exec_id] = status
                while len(self._early) > _EARLY_LIMIT:
                    del self._early[next(iter(self._early))]
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result(status)

    def _register(self, exec_id: str) -> Future[ExitStatus]:
        future: Future[ExitStatus] = Future()
        with self._lock:
            status = self._early.pop(exec_id, None)
            if status is None:
                self._running[exec_id] = future
        if status is not None:
            future.set_result(status)
        return future


def _pipe(opened: list[int]) -> tuple[int, int]:
    pair = os.pipe2(os.O_CLOEXEC)
    opened += pair
    return pair

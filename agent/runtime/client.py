"""The agent's side of the keeper: requests as calls, events as callbacks, a dead keeper as a short delay."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

from agent.errors import Conflict, HoldfastError, NotFound, Refused, Stalled, Unsupported, Waiting
from agent.runtime.connection import Connection, open_connection
from agent.runtime.protocol import (
    CreateRequest,
    ExecRequest,
    KeeperEvent,
    KeeperState,
    OverlaySpec,
    ReserveRequest,
    decode_event,
    decode_state,
    encode_create,
    encode_exec,
    encode_overlay,
    encode_reserve,
)

Reply = Future[tuple[dict[str, Any], list[int]]]
_PATIENCE_SECONDS = 60.0
_CONNECT_ATTEMPTS = 5
_RECONNECT_SECONDS = 0.2
_HANG_UP_SECONDS = 5.0
_CLASSES: dict[str, type[HoldfastError]] = {
    "NotFound": NotFound,
    "Conflict": Conflict,
    "NotRunning": Conflict,
    "Busy": Conflict,
    "NotATerminal": Conflict,
    "Unsupported": Unsupported,
    "Refused": Refused,
}


class CommandFailed(Stalled):
    """The program could not be executed: ``exit_code`` 127 when it is not there, 126 when it cannot run."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message, reason=reason)
        self.exit_code = 127 if reason == "CommandNotFound" else 126


class KeeperClient:
    """Thread-safe; any number of calls may be in flight. ``on_event`` runs in the reader thread: it must be quick.

    When the keeper dies a new one is started (``spawn``; else it is awaited, for a service manager starts it), which
    adopts what lives; calls in flight raise Waiting, and the end of everything that ended meanwhile is announced as
    if nothing had happened.
    """

    def __init__(self, run_root: Path, on_event: Callable[[KeeperEvent], None], *, spawn: bool = True) -> None:
        self._run_root = run_root
        self._on_event = on_event
        self._spawn = spawn
        self._lock = threading.Lock()
        self._calls: dict[int, Reply] = {}
        self._seq = 0
        self._running: set[str] = set()
        self._execs: dict[str, str] = {}
        self._connection: Connection | None = None
        self._closed = threading.Event()
        self._ended = False
        self._reader: threading.Thread | None = None

    def connect(self) -> None:
        """Connect, starting or awaiting a keeper if there is none. Raises Waiting when that fails, and Stalled when the
        keeper sees other mounts than this process: containers would find empty directories where layers are mounted.
        """
        for _ in range(_CONNECT_ATTEMPTS):
            try:
                connection = open_connection(self._run_root, spawn=self._spawn)
                if not connection.sees_our_mounts():
                    connection.close()
                    raise Stalled(
                        "agent and keeper are in different mount namespaces",
                        reason="MountsDiffer",
                        hint="take options like PrivateTmp= and ProtectSystem= out of both units, then restart them",
                    )
                self._attach(connection)
                break
            except OSError:
                continue  # it died between our connect and its answer
        else:
            raise _unavailable()
        self._reader = threading.Thread(target=self._read, name="keeper-client", daemon=True)
        self._reader.start()

    @property
    def spawns(self) -> bool:
        """Whether the keeper is ours to start and to end."""
        return self._spawn

    @property
    def connected(self) -> bool:
        """Whether a keeper is there at this moment."""
        return self._connection is not None

    def close(self) -> None:
        """Hang up; keeper and containers go on."""
        self._closed.set()
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.shut()
        if self._reader is not None:
            self._reader.join()
        if connection is not None:
            connection.close()

    def create_start(self, request: CreateRequest, meanwhile: Callable[[], None]) -> int:
        """Create and start, with ``meanwhile`` carried out in between, while the container sets itself up: what it
        raises keeps the container from starting. Returns the pid on the host."""
        created = self._send("create", request=encode_create(request))
        meanwhile()
        try:
            return int(self._call("start", id=request.id)[0]["pid"])
        except (NotFound, Conflict):
            self._wait(created, "create")  # raises why it ended; or an earlier keeper wants to be waited for
            return int(self._call("start", id=request.id)[0]["pid"])

    def create(self, request: CreateRequest) -> int:
        """Set a container up, up to the point of running its program. Returns the pid on the host."""
        return int(self._call("create", request=encode_create(request))[0]["pid"])

    def start(self, container_id: str) -> None:
        """Run a created container's program. Raises CommandFailed when there is none to run."""
        self._call("start", id=container_id)

    def reserve(self, request: ReserveRequest) -> int:
        """Fork an init ahead; it ends with this connection. Returns its pid on the host."""
        return int(self._call("reserve", request=encode_reserve(request))[0]["pid"])

    def reserve_soon(self, request: ReserveRequest) -> None:
        """The same without waiting for it. Where it comes to nothing the order makes an ordinary init."""
        with contextlib.suppress(HoldfastError):
            self._send("reserve", request=encode_reserve(request))

    def board(self, container_id: str, rootfs: OverlaySpec, netns: Path) -> None:
        """Tell a reserve where it will live, for it to go ahead; does not wait, and it is no loss if nobody listens."""
        request = {"id": container_id, "rootfs": encode_overlay(rootfs), "netns": str(netns)}
        with self._lock, contextlib.suppress(OSError):
            if self._connection is not None:
                self._connection.send({"seq": None, "do": "board", "request": request}, [])

    def run(self, request: CreateRequest) -> int:
        """Create and start in one message. Returns the pid on the host."""
        return int(self._call("run", request=encode_create(request))[0]["pid"])

    def kill(self, container_id: str, signal: int, everyone: bool = False) -> None:
        """Signal the first process, or with ``everyone`` all of the cgroup. Raises Conflict when it has ended."""
        self._call("kill", id=container_id, signal=int(signal), everyone=everyone)

    def delete(self, container_id: str) -> None:
        """Forget an ended (or never started) container. Raises Conflict while it runs."""
        self._call("delete", id=container_id)

    def states(self) -> tuple[KeeperState, ...]:
        """Every container the keeper knows, by id."""
        found: list[KeeperState] = []
        while True:
            reply, _ = self._call("states", after=found[-1].id if found else "")
            found += [decode_state(state) for state in reply["states"]]
            if not reply["more"]:
                return tuple(found)

    def exec(self, request: ExecRequest, fds: Sequence[int] = ()) -> tuple[str, int]:
        """Run a further process; returns its id and, with a terminal, the master's descriptor (the caller's to close).

        Without a terminal ``fds`` are its stdin, stdout and stderr; the caller still closes its own copies, and gets
        -1 for the master.
        """
        reply, received = self._call("exec", [] if request.terminal else list(fds), request=encode_exec(request))
        return str(reply["exec_id"]), received[0] if received else -1

    def resize(self, exec_id: str, rows: int, columns: int) -> None:
        """Resize an exec's terminal."""
        self._call("resize", exec_id=exec_id, rows=rows, columns=columns)

    def exec_kill(self, exec_id: str, signal: int) -> None:
        """Signal an exec. Raises NotFound when it has ended."""
        self._call("exec_kill", exec_id=exec_id, signal=int(signal))

    def upgrade(self, python: str = "", root: str = "") -> None:
        """Replace the keeper's program in place; empty arguments mean the same interpreter and package."""
        self._call("upgrade", python=python, root=root)

    def shutdown(self) -> None:
        """End the keeper, wait until it hangs up, start no other. Raises Conflict while it has containers that run."""
        spawn, self._spawn, self._ended = self._spawn, False, True
        try:
            self._call("shutdown")
        except HoldfastError:
            self._spawn, self._ended = spawn, False
            raise
        if self._reader is not None:
            self._reader.join(_HANG_UP_SECONDS)

    def _call(self, name: str, fds: list[int] | None = None, **fields: Any) -> tuple[dict[str, Any], list[int]]:
        return self._wait(self._send(name, fds, **fields), name)

    def _wait(self, future: Reply, name: str) -> tuple[dict[str, Any], list[int]]:
        try:
            return future.result(_PATIENCE_SECONDS)
        except FutureTimeout:
            with self._lock:
                self._calls = {seq: call for seq, call in self._calls.items() if call is not future}
            raise Waiting(f"the keeper did not answer {name}", reason="KeeperTimeout") from None

    def _send(self, name: str, fds: list[int] | None = None, **fields: Any) -> Reply:
        future: Reply = Future()
        with self._lock:
            if self._connection is None:
                raise _unavailable()
            self._seq += 1
            seq = self._seq
            self._calls[seq] = future
            try:
                self._connection.send({"seq": seq, "do": name, **fields}, fds or [])
            except OSError:
                del self._calls[seq]
                raise _unavailable() from None
        return future

    def _read(self) -> None:
        while not self._closed.is_set():
            connection = self._connection
            message = connection.receive() if connection is not None else None
            if message is not None:
                self._take(*message)
            elif not self._closed.is_set():
                self._drop()
                if self._ended:
                    return
                self._reconnect()

    def _take(self, message: dict[str, Any], fds: list[int]) -> None:
        if "event" in message:
            self._announce(decode_event(message["event"]))
            return
        with self._lock:
            future = self._calls.pop(message.get("seq") or 0, None)
        error = message.get("error")
        if future is None:
            Connection.discard(fds)
        elif error is not None:
            future.set_exception(_decode_error(error["reason"], error["message"]))
        else:
            exec_id = message["ok"].get("exec_id")
            if exec_id:
                self._execs[exec_id] = str(message["ok"]["id"])
            future.set_result((message["ok"], fds))

    def _announce(self, event: KeeperEvent) -> None:
        with self._lock:
            if event.kind == "started":
                self._running.add(event.id)
            elif event.kind == "exited":
                self._running.discard(event.id)
            elif event.kind == "exec_exited":
                self._execs.pop(event.exec_id, None)
        self._on_event(event)

    def _drop(self) -> None:
        """The line is dead: so are the calls in flight."""
        with self._lock:
            dead, self._connection = self._connection, None
            calls, self._calls = self._calls, {}
        if dead is not None:
            dead.close()
        for future in calls.values():
            future.set_exception(_unavailable())

    def _reconnect(self) -> None:
        while not self._closed.is_set():
            try:
                self._attach(open_connection(self._run_root, spawn=self._spawn))
                return
            except (HoldfastError, OSError):
                self._closed.wait(_RECONNECT_SECONDS)

    def _attach(self, connection: Connection) -> None:
        """Subscribe, and tell of everything that ended while nobody listened. Raises OSError for no answer."""
        try:
            states, events = connection.subscribe()
        except BaseException:
            connection.close()
            raise
        found = {state["id"]: decode_state(state) for state in states}
        with self._lock:
            missed = [event for name in sorted(self._running) if (event := _compute_end(name, found.get(name)))]
            living = {exec_id for state in found.values() for exec_id in state.execs}
            ended = [one for one in self._execs.items() if one[0] not in living]
            self._running |= {name for name, state in found.items() if state.running}
            self._connection = connection
        for event in missed:
            self._announce(event)
        for exec_id, container_id in ended:
            self._announce(KeeperEvent("exec_exited", container_id, exec_id))
        for event_fields in events:
            self._announce(decode_event(event_fields))


def _compute_end(container_id: str, state: KeeperState | None) -> KeeperEvent | None:
    """The exit event for a container that ran when the line was cut; None when it still runs."""
    if state is not None and state.exit is None:
        return None
    if state is None or state.exit is None:
        return KeeperEvent("exited", container_id)
    end = state.exit
    return KeeperEvent("exited", container_id, "", state.pid, end.code, end.signal, end.oom, end.at)


def _decode_error(reason: str, message: str) -> HoldfastError:
    if reason.startswith("Command"):
        return CommandFailed(message, reason)
    return _CLASSES.get(reason, Stalled)(message, reason=reason)


def _unavailable() -> Waiting:
    return Waiting("the keeper is not there", retry_after=1.0, reason="KeeperUnavailable")

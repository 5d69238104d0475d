"""The line to the keeper: requests out, each with its answer, and events in, through connections that come and go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

from agent.errors import Conflict, HoldfastError, NotFound, Refused, Stalled, Unsupported, Waiting
from agent.runtime.connection import Connection, open_connection
from agent.runtime.protocol import KeeperEvent, decode_event, decode_state
from agent.runtime.roll import Roll

Answer = tuple[dict[str, Any], list[int]]
"""The fields of an answer, and the descriptors that came with it, which are the caller's to close."""
Reply = Future[Answer]
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


class KeeperLine:
    """Thread-safe; any number of requests may be in flight. ``on_event`` runs in the reader thread: it must be quick.

    When the keeper dies a new one is started (``spawn``; else it is awaited); requests in flight raise Waiting, and
    the end of everything that ended meanwhile is announced as if nothing had happened.
    """

    def __init__(self, run_root: Path, on_event: Callable[[KeeperEvent], None], *, spawn: bool) -> None:
        self._run_root = run_root
        self._on_event = on_event
        self.spawn = spawn
        self._lock = threading.Lock()
        self._calls: dict[int, Reply] = {}
        self._seq = 0
        self._roll = Roll()
        self._connection: Connection | None = None
        self._closed = threading.Event()
        self._ended = False
        self._reader: threading.Thread | None = None

    def connect(self) -> None:
        """As ``KeeperClient.connect`` says."""
        for _ in range(_CONNECT_ATTEMPTS):
            try:
                connection = open_connection(self._run_root, spawn=self.spawn)
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

    def end(self) -> None:
        """End the keeper, wait until it hangs up, start no other. Raises Conflict while it has containers that run."""
        spawn, self.spawn, self._ended = self.spawn, False, True
        try:
            self.call("shutdown")
        except HoldfastError:
            self.spawn, self._ended = spawn, False
            raise
        if self._reader is not None:
            self._reader.join(_HANG_UP_SECONDS)

    # out

    def call(self, name: str, fds: list[int] | None = None, **fields: Any) -> Answer:
        """Send a request and wait for its answer. Raises HoldfastError."""
        return self.wait(self.send(name, fds, **fields), name)

    def wait(self, future: Reply, name: str) -> Answer:
        """The answer to a request that was sent. Raises HoldfastError."""
        try:
            return future.result(_PATIENCE_SECONDS)
        except FutureTimeout:
            with self._lock:
                self._calls = {seq: call for seq, call in self._calls.items() if call is not future}
            raise Waiting(f"the keeper did not answer {name}", reason="KeeperTimeout") from None

    def send(self, name: str, fds: list[int] | None = None, **fields: Any) -> Reply:
        """Send a request. Raises Waiting when no keeper is there."""
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

    def post(self, name: str, request: Mapping[str, Any]) -> None:
        """Send a request that nobody answers; it is no loss if nobody is there."""
        with self._lock:
            if self._connection is not None:
                try:
                    self._connection.send({"seq": None, "do": name, "request": request}, [])
                except OSError:
                    return

    # in

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
                self._roll.note_exec(exec_id, str(message["ok"]["id"]))
            future.set_result((message["ok"], fds))

    def _announce(self, event: KeeperEvent) -> None:
        self._roll.note(event)
        self._on_event(event)

    def _drop(self) -> None:
        """The connection is dead: so are the requests in flight."""
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
                self._attach(open_connection(self._run_root, spawn=self.spawn))
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
        missed = self._roll.call({state["id"]: decode_state(state) for state in states})
        with self._lock:
            self._connection = connection
        for event in (*missed, *map(decode_event, events)):
            self._announce(event)


def _decode_error(reason: str, message: str) -> HoldfastError:
    if reason.startswith("Command"):
        return CommandFailed(message, reason)
    return _CLASSES.get(reason, Stalled)(message, reason=reason)


def _unavailable() -> Waiting:
    return Waiting("the keeper is not there", retry_after=1.0, reason="KeeperUnavailable")

"""Keeps a name server running and told, for as long as there are networks.

All that is to be known is in the NameTable; here is only what has changed since it was last said. A change is said by
the thread that makes it, at the cost of one system call, so that a container's names are with the name server before
the container runs. Whenever the name server has gone another one is started at once: it is given all names anew, and
the very sockets that the last one read, so that no question is lost. One of another version is replaced likewise.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import HoldfastError
from agent.kernel.packets import encode
from agent.network.gateways import Gateways
from agent.network.nameconnection import NameConnection, open_connection, pack_changes
from agent.network.names import Key, NameTable
from agent.network.namespawn import Upstream, spawn_name_server
from agent.telemetry.logging import get_logger

if TYPE_CHECKING:
    from agent.network.nameserver.zone import Change

_STEADY_SECONDS = 1.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0
_JOIN_SECONDS = 30.0

log = get_logger("network")


class NameLink:
    """``start``, ``quit``, ``meet`` and ``close`` are for one thread at a time, the rest for any.

    ``on_fault`` is called, in a thread of ours, whenever ``fault`` has changed: why there is no name server, or "".
    """

    def __init__(self, run_root: Path, names: NameTable, gateways: Gateways, upstreams: Upstream = None) -> None:
        self._run_root = run_root
        self._names = names
        self._gateways = gateways
        self._upstreams = upstreams
        self._lock = threading.Condition()
        self._dirty: dict[Key, None] = {}
        self._pings = self._pongs = 0
        self._pinged = 0
        self._connection: NameConnection | None = None
        self._met: NameConnection | None = None
        self._thread: threading.Thread | None = None
        self._leaving = threading.Event()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.fault = ""
        self.on_fault: Callable[[], None] = lambda: None
        names.on_change = self._push

    def meet(self) -> None:
        """Take the sockets over from a name server that an earlier agent left; one that does not answer is ended."""
        connection = open_connection(self._run_root)
        if connection is None:
            return
        try:
            connection.greet()
            connection.take_sockets(self._gateways)
            self._met = connection
        except ConnectionResetError:
            connection.close()  # it was just ending
        except OSError as error:
            log.warning("the name server did not answer and is replaced", error=str(error))
            connection.kill()
            connection.close()

    @property
    def met(self) -> bool:
        """Whether one was met that may go on."""
        return self._met is not None

    def start(self) -> None:
        """Have a name server from now on."""
        if self._thread is None:
            self._leaving.clear()
            self._thread = threading.Thread(target=self._run, name="names", daemon=True)
            self._thread.start()

    def settle(self, seconds: float) -> bool:
        """Wait until everything said so far is in force; False when it is not, nor soon."""
        with self._lock:
            self._pings += 1
            mine = self._pings
        self._push(())
        with self._lock:
            self._lock.wait_for(lambda: self._pongs >= mine or self._thread is None or bool(self.fault), seconds)
            return self._pongs >= mine

    def quit(self) -> None:
        """End the name server, and wait for that; its sockets stay ours to close."""
        self._stop_thread()
        found = self._release()
        unknown = open_connection(self._run_root) if not found else None
        for connection in [*found, unknown] if unknown else found:
            connection.quit(drain=False)
            connection.close()
        with self._lock:
            self._dirty.clear()
        self._say("")

    def close(self) -> None:
        """Let go of the name server, which goes on."""
        self._stop_thread()
        for connection in self._release():
            connection.close()
        os.close(self._wake)

    def _stop_thread(self) -> None:
        thread = self._thread
        if thread is not None:
            self._leaving.set()
            os.eventfd_write(self._wake, 1)
            thread.join(_JOIN_SECONDS)
            with self._lock:
                self._thread = None
                self._lock.notify_all()

    def _push(self, keys: Iterable[Key]) -> None:
        with self._lock:
            self._dirty.update(dict.fromkeys(keys))
            if self._connection is None:
                return  # all is said when there is one
            try:
                self._flush(self._connection)
                return
            except OSError:
                pass  # no room, or nobody there: the thread sees to it
        os.eventfd_write(self._wake, 1)

    def _flush(self, connection: NameConnection) -> None:
        """Say what has changed. Raises OSError; what was not said is then still to be said."""
        for key in tuple(self._dirty):
            for packet, gateway in pack_changes(self._names.changes(key)):
                with self._sockets(gateway) as descriptors:
                    connection.send(packet, descriptors)
            del self._dirty[key]
        if self._pinged < self._pings:
            connection.send(encode({"do": "ping", "n": self._pings}))
            self._pinged = self._pings

    @contextlib.contextmanager
    def _sockets(self, gateway: str) -> Iterator[list[int]]:
        descriptors = self._gateways.duplicate(gateway) if gateway else []
        try:
            yield descriptors
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _run(self) -> None:
        """The thread: one session after the other, with a pause between those that fail or are very short."""
        pause = 0.0
        while not self._leaving.is_set():
            begun = time.monotonic()
            try:
                self._hold_session()
                fault = ""
            except (HoldfastError, OSError) as error:
                fault = f"names are not answered: {error}"
            if fault and not self._leaving.is_set():
                self._say(fault)
            if not fault and time.monotonic() - begun > _STEADY_SECONDS:
                pause = 0.0
                continue
            pause = min(max(pause * 2, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
            self._leaving.wait(pause)

    def _hold_session(self) -> None:
        """Find or start a name server, tell it all, and what changes, until it has gone. Raises when there is none."""
        connection = self._find() or self._spawn()
        try:
            self._tell_all(connection)
            self._say("")
            self._serve(connection)
        finally:
            if not (self._leaving.is_set() and self._connection is connection):
                with self._lock:
                    self._connection = None
                connection.close()

    def _find(self) -> NameConnection | None:
        """A name server of our version that runs already; one of another version is ended."""
        if self._met is None:
            self.meet()
        connection, self._met = self._met, None
        if connection is None or connection.current:
            return connection
        log.info("the name server is of another version and is replaced")
        connection.quit(drain=True)
        connection.close()
        return None

    def _spawn(self) -> NameConnection:
        connection = NameConnection(spawn_name_server(self._run_root, self._upstreams))
        try:
            connection.greet()
        except BaseException:
            connection.close()
            raise
        return connection

    def _tell_all(self, connection: NameConnection) -> None:
        """A new zone from the beginning; what changes meanwhile is said before it is put in force."""
        with self._lock:
            self._dirty.clear()
        connection.send_patiently(encode({"do": "begin"}))
        self._say_changes(connection, self._names.everything())
        while not self._commit(connection):
            with self._lock:
                keys = tuple(self._dirty)
                self._dirty.clear()
            self._say_changes(connection, (change for key in keys for change in self._names.changes(key)))
            connection.wait_room()
        connection.ask_reply("committed")
        self._push(())

    def _say_changes(self, connection: NameConnection, changes: Iterable[Change]) -> None:
        for packet, gateway in pack_changes(changes):
            with self._sockets(gateway) as descriptors:
                connection.send_patiently(packet, descriptors)

    def _commit(self, connection: NameConnection) -> bool:
        """Put the new zone in force if all has been said; from then on whoever changes something says so himself."""
        with self._lock:
            if self._dirty:
                return False
            try:
                connection.send(encode({"do": "commit"}))
            except BlockingIOError:
                return False
            self._connection, self._pinged = connection, self._pongs
            return True

    def _serve(self, connection: NameConnection) -> None:
        """Take replies and say what could not be said at once, until told to leave or the name server has gone."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        while not self._leaving.is_set():
            with self._lock:
                behind = bool(self._dirty) or self._pinged < self._pings
            poll.register(connection, select.POLLIN | (select.POLLOUT if behind else 0))
            for descriptor, _ in poll.poll():
                if descriptor == self._wake:
                    os.eventfd_read(self._wake)
            try:
                while (reply := connection.receive()) is not None:
                    self._take_pong(reply[0].get("pong", 0))
            except OSError:
                return
            if behind:
                with self._lock, contextlib.suppress(OSError):
                    self._flush(connection)

    def _take_pong(self, number: int) -> None:
        with self._lock:
            self._pongs = max(self._pongs, number)
            self._lock.notify_all()

    def _release(self) -> list[NameConnection]:
        """The connections that there are, which are the caller's to close."""
        with self._lock:
            found = [connection for connection in (self._connection, self._met) if connection is not None]
            self._connection = self._met = None
        return found

    def _say(self, fault: str) -> None:
        if fault != self.fault:
            self.fault = fault
            if fault:
                log.error(fault)
            self.on_fault()

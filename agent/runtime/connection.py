"""One connection to the keeper's socket: packets out and in, descriptors beside them."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agent.errors import Waiting
from agent.runtime.spawn import spawn_keeper
from agent.runtime.wire import MAX_FDS, MAX_PACKET, SOCKET_NAME, decode, encode

_ATTEMPTS = 100
_PAUSE_SECONDS = 0.05
_SPAWN_AGAIN = 10
_SEND_SECONDS = 60
_GREETING_SECONDS = 20


class Connection:
    """``send`` may be called by any thread; ``receive`` by one. A keeper that takes nothing for a minute, or does not
    answer the first questions, counts as gone: a stopped process must not stop its clients."""

    def __init__(self, stream: socket.socket) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(_SEND_SECONDS))
        self._socket = stream
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any], fds: list[int]) -> None:
        """Send one message. Raises OSError when the keeper has gone or the message is too long."""
        data = encode(message)
        if len(data) > MAX_PACKET:
            raise Waiting(f"a request of {len(data)} bytes is too long", reason="RequestTooLong")
        with self._lock:
            socket.send_fds(self._socket, [data], fds)

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and its descriptors; None when the keeper has gone."""
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, MAX_PACKET, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return None
        if not data:
            self.discard(fds)
            return None
        return decode(data), list(fds)

    def subscribe(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Ask for events from now on, and for all states: ``(states, events that came in between)``. Raises OSError."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(_GREETING_SECONDS))
        states: list[dict[str, Any]] = []
        events: list[dict[str, Any]] = []
        self._ask({"seq": -1, "do": "subscribe"}, events)
        more = True
        while more:
            page = self._ask({"seq": -1, "do": "states", "after": states[-1]["id"] if states else ""}, events)
            states += page["states"]
            more = bool(page["more"])
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(0))
        return states, events

    def _ask(self, message: dict[str, Any], events: list[dict[str, Any]]) -> dict[str, Any]:
        self.send(message, [])
        while (found := self.receive()) is not None:
            reply, fds = found
            self.discard(fds)
            if "event" in reply:
                events.append(reply["event"])
            elif "ok" in reply:
                return dict(reply["ok"])
            else:
                break
        raise OSError("the keeper hung up")

    def sees_our_mounts(self) -> bool:
        """Whether the keeper is in the same mount namespace; so it is taken to be when it has just ended."""
        pid, _, _ = struct.unpack("@3i", self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        try:
            return Path(f"/proc/{pid}/ns/mnt").stat().st_ino == Path("/proc/self/ns/mnt").stat().st_ino
        except OSError:
            return True

    def shut(self) -> None:
        """Wake the reader: its ``receive`` returns None."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    @staticmethod
    def discard(fds: Iterable[int]) -> None:
        """Close descriptors nobody asked for."""
        for descriptor in fds:
            os.close(descriptor)


def _timeval(seconds: int) -> bytes:
    """struct timeval; 0 means for ever."""
    return struct.pack("@ll", seconds, 0)


def open_connection(run_root: Path, *, spawn: bool) -> Connection:
    """Connect to the keeper of ``run_root``; with ``spawn`` start one when nobody answers. Raises Waiting.

    A keeper that somebody else is just starting is waited for, some seconds.
    """
    stream = _connect(run_root)
    if stream is None and spawn and spawn_keeper(run_root):
        stream = _connect(run_root)
    for attempt in range(1, _ATTEMPTS + 1 if stream is None else 1):
        time.sleep(_PAUSE_SECONDS)
        stream = _connect(run_root)
        if stream is None and spawn and attempt % _SPAWN_AGAIN == 0 and spawn_keeper(run_root):
            stream = _connect(run_root)  # the one that held the lock was on its way out
        if stream is not None:
            break
    if stream is None:
        hint = "" if spawn else "start its unit (deploy/README.md), or run the agent with --keeper start"
        message = f"no keeper answers in {run_root}"
        raise Waiting(message, retry_after=1.0, reason="KeeperUnavailable", hint=hint)
    return Connection(stream)


def _connect(run_root: Path) -> socket.socket | None:
    """By way of a descriptor of the directory: a socket's path may have 107 bytes only."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        directory = os.open(run_root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        stream.close()
        return None
    try:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(_GREETING_SECONDS))
        stream.connect(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
    except OSError:
        stream.close()
        return None
    finally:
        os.close(directory)
    return stream

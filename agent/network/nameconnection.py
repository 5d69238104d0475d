"""One connection to the name server: packets of changes out, replies in, sockets beside them."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import __version__
from agent.kernel.packets import decode, encode
from agent.kernel.pidfd import open_process, send_signal
from agent.network.gateways import Gateways
from agent.network.nameserver.protocol import MAX_FDS, MAX_PACKET, PROTOCOL, SOCKET_NAME
from agent.telemetry.logging import get_logger

if TYPE_CHECKING:
    from agent.network.nameserver.zone import Change

PATIENCE_SECONDS = 10.0
_HEAD, _TAIL = b'{"do":"change","changes":[', b"]}"
_CREDENTIALS = struct.Struct("3i")

log = get_logger("network")


class NameConnection:
    """Not thread-safe. Everything but ``send`` may wait, at most PATIENCE_SECONDS, and then raises OSError."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._pidfd = -1
        self.gateways: tuple[str, ...] = ()
        self.current = False
        stream.setblocking(False)

    def fileno(self) -> int:
        """What becomes readable for replies, and when the name server has gone."""
        return self._stream.fileno()

    def greet(self) -> None:
        """Learn who is there: ``current`` is whether it is of our version, ``gateways`` whose sockets it has."""
        self.send(encode({"do": "hello"}))
        reply, _ = self.ask_reply("pid")
        self._pidfd = open_process(int(reply["pid"]))
        self.gateways = tuple(map(str, reply.get("gateways", ())))
        self.current = (reply.get("protocol"), reply.get("version")) == (PROTOCOL, __version__)

    def take_sockets(self, gateways: Gateways) -> None:
        """Get a share in every socket that the name server has."""
        for gateway in self.gateways:
            self.send(encode({"do": "hand", "gateway": gateway}))
            _, descriptors = self.ask_reply("gateway")
            if len(descriptors) == MAX_FDS:
                gateways.adopt(gateway, descriptors)
            else:
                _close_all(descriptors)

    def send(self, packet: bytes, descriptors: Iterable[int] = ()) -> None:
        """Send one packet. Raises BlockingIOError when there is no room at the moment, OSError when nobody is there."""
        socket.send_fds(self._stream, [packet], list(descriptors), socket.MSG_NOSIGNAL)

    def send_patiently(self, packet: bytes, descriptors: Iterable[int] = ()) -> None:
        """Send one packet, waiting for room."""
        while True:
            try:
                self.send(packet, descriptors)
                return
            except BlockingIOError:
                self.wait_room()

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next reply, None when there is none yet. Raises OSError when the name server has gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._stream, MAX_PACKET, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        if not data:
            _close_all(descriptors)
            raise ConnectionResetError("the name server has gone")
        try:
            return decode(data), list(descriptors)
        except ValueError as error:
            _close_all(descriptors)
            raise ConnectionAbortedError(f"the name server talks nonsense: {error}") from error

    def ask_reply(self, key: str) -> tuple[dict[str, Any], list[int]]:
        """Wait for the reply that has this key; others are passed over."""
        while True:
            self._wait(select.POLLIN)
            found = self.receive()
            if found is not None and key in found[0]:
                return found
            if found is not None:
                _close_all(found[1])

    def quit(self, *, drain: bool) -> None:
        """End the name server and wait until it has ended, or, with ``drain``, until it lets another one begin.

        One that does not obey is killed. Never raises.
        """
        try:
            if self._pidfd < 0:
                self.greet()
            self.send_patiently(encode({"do": "quit", "drain": drain}))
            self.ask_reply("quitting")
            if not drain:
                self._wait_ended()
        except ConnectionResetError:
            self._wait_ended()
        except OSError:
            self.kill()

    def kill(self) -> None:
        """End a name server that does not answer, and wait for that."""
        try:
            if self._pidfd < 0:
                self._pidfd = open_process(self._peer())
            send_signal(self._pidfd, signal.SIGKILL)
        except OSError:
            log.debug("a name server that did not answer has ended by itself")
        self._wait_ended()

    def _wait_ended(self) -> None:
        if self._pidfd >= 0:
            select.select([self._pidfd], [], [], PATIENCE_SECONDS)

    def _peer(self) -> int:
        """Who listens at the other end. Raises ProcessLookupError when that is ourselves: it was just being started."""
        credentials = self._stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid = int(_CREDENTIALS.unpack(credentials)[0])
        if pid in (0, os.getpid()):
            raise ProcessLookupError("the name server's pid is not known")
        return pid

    def wait_room(self) -> None:
        """Wait until there may be room to send."""
        self._wait(select.POLLOUT)

    def _wait(self, events: int) -> None:
        poll = select.poll()
        poll.register(self._stream, events)
        if not poll.poll(PATIENCE_SECONDS * 1000):
            raise TimeoutError("the name server does not answer")

    def close(self) -> None:
        """Hang up; the name server goes on."""
        self._stream.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def open_connection(run_root: Path) -> NameConnection | None:
    """Connect to the name server of ``run_root``; None when there is none.

    By way of a descriptor of the directory: a socket's path may have 107 bytes only.
    """
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        directory = os.open(run_root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            stream.connect(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        finally:
            os.close(directory)
    except OSError:
        stream.close()
        return None
    return NameConnection(stream)


def pack_changes(changes: Iterable[Change]) -> Iterator[tuple[bytes, str]]:
    """Packets of changes, as many in each as it holds; a network's is alone, its gateway beside it, for its sockets."""
    batch: list[bytes] = []
    size = 0
    for change in changes:
        encoded = encode({"": change})[4:-1]
        if change[0] == "network":
            yield _HEAD + encoded + _TAIL, str(change[2])
        elif len(encoded) + len(_HEAD) + len(_TAIL) > MAX_PACKET:
            log.error("too many names at once are not answered", bytes=len(encoded), kind=change[0], of=str(change[1]))
        else:
            if batch and size + len(encoded) > MAX_PACKET:
                yield _HEAD + b",".join(batch) + _TAIL, ""
                batch, size = [], 0
            batch.append(encoded)
            size += len(encoded) + 1 + (0 if size else len(_HEAD) + len(_TAIL))
    if batch:
        yield _HEAD + b",".join(batch) + _TAIL, ""


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)

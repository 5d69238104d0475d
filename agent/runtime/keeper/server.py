"""The keeper's socket: clients, packets, tickets.

Law: no client can hurt the keeper or another client. A packet that makes no sense gets an error, a client that does
not read is dropped when its queue is full; it connects again and reads the states.
"""

from __future__ import annotations

import _socket
import os
import select
import struct
import sys

from agent.runtime.keeper.failure import Failure
from agent.runtime.keeper.loop import READ, WRITE
from agent.runtime.wire import MAX_FDS, MAX_PACKET, SOCKET_NAME, decode, encode, pack_rights, unpack_rights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.runtime.keeper.loop import Loop

_QUEUE = 4096
_BACKLOG = 64
_GONE = select.EPOLLHUP | select.EPOLLERR


class Client:
    """One connection."""

    def __init__(self, server: Server, socket: _socket.socket) -> None:
        self._server = server
        self._queue: list[tuple[bytes, list[int]]] = []
        self.socket = socket
        self.subscribed = False
        self.closed = False
        self._crowded = False

    def on_ready(self, events: int) -> None:
        """Serve this client's descriptor."""
        if events & WRITE:
            self._flush()
        if events & (READ | _GONE) and not self.closed:
            self._receive()

    def _receive(self) -> None:
        space = _socket.CMSG_SPACE(4 * MAX_FDS)
        try:
            data, rights, flags, _ = self.socket.recvmsg(MAX_PACKET, space, _socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        fds = unpack_rights(rights)
        try:
            if not data:
                self.close()
            elif flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
                self.send({"seq": None, "error": {"reason": "InvalidRequest", "message": "the packet is too long"}})
            else:
                self._server.dispatch(self, data, fds)
        finally:
            for descriptor in fds:
                os.close(descriptor)

    def send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        """Queue a message; the client is dropped when it has not read for too long. Takes the descriptors over."""
        fds = fds or []
        if self.closed or len(self._queue) >= _QUEUE:
            _close_all(fds)
            self.close()
            return
        self._queue.append((encode(message), fds))
        if len(self._queue) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._queue:
            data, fds = self._queue[0]
            try:
                self.socket.sendmsg([data], pack_rights(fds))
            except BlockingIOError:
                self._await_room(True)
                return
            except OSError:
                self.close()
                return
            self._queue.pop(0)
            _close_all(fds)
        self._await_room(False)

    def _await_room(self, crowded: bool) -> None:
        """Be told, or not any more, when there is room for what is queued."""
        if crowded != self._crowded:
            self._crowded = crowded
            self._server.loop.change(self.socket.fileno(), READ | WRITE if crowded else READ)

    @property
    def idle(self) -> bool:
        """True when nothing waits to be sent."""
        return not self._queue

    def close(self) -> None:
        """Drop the connection and what is queued for it."""
        if self.closed:
            return
        self.closed = True
        self._server.loop.forget(self.socket.fileno())
        self.socket.close()
        for _, fds in self._queue:
            _close_all(fds)
        self._queue = []
        self._server.clients.discard(self)
        self._server.on_close(self)


class Ticket:
    """The right to answer one request, once; harmless when the client has gone. ``packet`` is the request as it came,
    ``other`` a ticket that is answered after this one, with the same."""

    __slots__ = ("_client", "_seq", "other", "packet")

    def __init__(self, client: Client, packet: bytes, seq: object = None) -> None:
        self._client: Client | None = client
        self._seq = seq
        self.packet = packet
        self.other: Ticket | None = None

    def answer(self, result: dict[str, Any], fds: list[int] | None = None) -> None:
        """Success. Takes the descriptors over."""
        self._send({"seq": self._seq, "ok": result}, fds)
        if self.other is not None:
            self.other.answer(result)

    def refuse(self, failure: Failure) -> None:
        """Failure."""
        self._send({"seq": self._seq, "error": {"reason": failure.reason, "message": failure.message}}, None)
        if self.other is not None:
            self.other.refuse(failure)

    def _send(self, message: dict[str, Any], fds: list[int] | None) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.send(message, fds)
        else:
            _close_all(fds or [])


class Server:
    """Listens, and hands each request to ``handle(name, message, fds, ticket, client)``; ``on_close`` is told of each
    connection that has ended."""

    def __init__(
        self, loop: Loop, listener: _socket.socket, handle: Callable[..., None], on_close: Callable[[Client], None]
    ) -> None:
        self.loop = loop
        self.listener = listener
        self.clients: set[Client] = set()
        self._handle = handle
        self.on_close = on_close
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        listener.setblocking(False)
        loop.watch(listener.fileno(), self._accept)

    def _accept(self, _events: int) -> None:
        try:
            descriptor, _ = self.listener._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return
        except OSError:
            self._shed()
            return
        self.add(descriptor)

    def _shed(self) -> None:
        """No descriptor left: take the caller off the queue all the same, or the loop would spin on it."""
        os.close(self._spare)
        try:
            os.close(self.listener._accept()[0])  # type: ignore[attr-defined]
        except OSError:
            pass
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def add(self, descriptor: int, *, subscribed: bool = False) -> None:
        """Serve a connection; anybody but root is turned away."""
        socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, descriptor)
        socket.setblocking(False)
        credentials = socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        if struct.unpack("3i", credentials)[1] != os.getuid():
            socket.close()
            return
        client = Client(self, socket)
        client.subscribed = subscribed
        self.clients.add(client)
        self.loop.watch(descriptor, client.on_ready)

    def dispatch(self, client: Client, data: bytes, fds: list[int]) -> None:
        """Decode one packet and have it handled; every error becomes an answer."""
        ticket = Ticket(client, data)
        try:
            message = decode(data)
            ticket = Ticket(client, data, message.get("seq"))
            self._handle(str(message.get("do")), message, fds, ticket, client)
        except Failure as failure:
            ticket.refuse(failure)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            ticket.refuse(Failure("InvalidRequest", f"{type(error).__name__}: {error}"))
        except OSError as error:
            ticket.refuse(Failure("HostError", str(error)))
        except Exception as error:
            sys.excepthook(*sys.exc_info())
            ticket.refuse(Failure("InternalError", f"{type(error).__name__}: {error}"))

    def announce(self, event: dict[str, Any]) -> None:
        """Tell every subscriber."""
        for client in [client for client in self.clients if client.subscribed]:
            client.send({"event": event})


def create_listener(run_root: str) -> _socket.socket:
    """Bind the socket, readable by root alone. The caller holds the keeper's lock, so a file there is stale.

    By way of a descriptor of the directory: a socket's path may have 107 bytes only.
    """
    path = f"{run_root}/{SOCKET_NAME}"
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    directory = os.open(run_root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    before = os.umask(0o177)
    try:
        socket.bind(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
    finally:
        os.umask(before)
        os.close(directory)
    socket.listen(_BACKLOG)
    return socket


def _close_all(fds: list[int]) -> None:
    for descriptor in fds:
        os.close(descriptor)

"""Passes questions on to the host's own name servers: bounded in number and time, one fresh socket each."""

from __future__ import annotations

import _socket
import errno
import os
from abc import ABC, abstractmethod

from agent.network.nameserver.message import (
    MAX_MESSAGE_BYTES,
    SERVER_FAILURE,
    encode_response,
    matches,
    with_id,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.network.nameserver.loop import Loop, Timer
    from agent.network.nameserver.message import Query

    Reply = Callable[[bytes], None]
    Servers = tuple[tuple[str, int], ...]

ATTEMPT_SECONDS = 2.0
ATTEMPTS = 3
MAX_PENDING, MAX_PENDING_PER_CLIENT = 256, 48


class Forwarder:
    """``find_servers`` says whom to ask, in order; ``idle`` is called whenever nothing waits any more."""

    def __init__(self, loop: Loop, find_servers: Callable[[], Servers]) -> None:
        self._loop = loop
        self._find_servers = find_servers
        self._per_client: dict[str, int] = {}
        self.idle: Callable[[], None] | None = None

    @property
    def pending(self) -> int:
        """How many questions wait for an answer."""
        return sum(self._per_client.values())

    def ask(self, client: str, query: Query, packet: bytes, reply: Reply, *, stream: bool = False) -> None:
        """Send ``packet`` on, over TCP if ``stream``; ``reply`` gets the answer or a server failure, exactly once."""
        servers = self._find_servers()
        mine = self._per_client.get(client, 0)
        full = self.pending >= MAX_PENDING or mine >= MAX_PENDING_PER_CLIENT
        if not servers or full:
            reply(encode_response(query, SERVER_FAILURE))
            return
        self._per_client[client] = mine + 1

        def finish(answer: bytes | None) -> None:
            left = self._per_client.pop(client) - 1
            if left:
                self._per_client[client] = left
            reply(with_id(answer, query.id) if answer is not None else encode_response(query, SERVER_FAILURE))
            if self.idle is not None and not self._per_client:
                self.idle()

        kind = _StreamAttempt if stream else _DatagramAttempt
        _Question(self._loop, servers, query, packet, finish).start(kind)


class _Question:
    """One question on its way through the servers."""

    def __init__(
        self, loop: Loop, servers: Servers, query: Query, packet: bytes, finish: Callable[[bytes | None], None]
    ) -> None:
        self.loop = loop
        self.query = query
        self._packet = packet
        self._finish = finish
        self._order = [servers[n % len(servers)] for n in range(max(ATTEMPTS, len(servers)))]

    def start(self, kind: type[_Attempt]) -> None:
        """Ask the next server, or give up."""
        while self._order:
            server = self._order.pop(0)
            identity = int.from_bytes(os.urandom(2), "big")
            try:
                attempt = kind(self, identity, with_id(self._packet, identity))
            except OSError:
                break  # no descriptor is left
            try:
                attempt.connect(server)
            except OSError:
                attempt.close()
                continue
            return
        self._finish(None)

    def answered(self, answer: bytes) -> None:
        """A server answered."""
        self._finish(answer)


class _Attempt(ABC):
    """One question put to one server over one socket."""

    type = _socket.SOCK_DGRAM

    def __init__(self, question: _Question, identity: int, packet: bytes) -> None:
        self._question = question
        self._identity = identity
        self._packet = packet
        self._loop = question.loop
        self._socket = _socket.socket(_socket.AF_INET, self.type | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
        self._timer: Timer | None = None

    def connect(self, server: tuple[str, int]) -> None:
        """Send the question. Raises OSError."""
        code = self._socket.connect_ex(server)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, "cannot reach the name server")
        self._timer = self._loop.call_later(ATTEMPT_SECONDS, self._fail)
        self._send()

    @abstractmethod
    def _send(self) -> None:
        """Put the question on its way."""

    def close(self) -> None:
        """Give the socket back."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.forget(self._socket)
        self._socket.close()

    def _fail(self) -> None:
        self.close()
        self._question.start(type(self))

    def _accept(self, answer: bytes) -> bool:
        if not matches(self._question.query, answer, self._identity):
            return False
        self.close()
        self._question.answered(answer)
        return True


class _DatagramAttempt(_Attempt):
    def _send(self) -> None:
        self._socket.send(self._packet)
        self._loop.watch(self._socket, self._read)

    def _read(self) -> None:
        try:
            self._accept(self._socket.recv(MAX_MESSAGE_BYTES))
        except BlockingIOError:
            pass
        except OSError:
            self._fail()


class _StreamAttempt(_Attempt):
    type = _socket.SOCK_STREAM

    def _send(self) -> None:
        self._out = len(self._packet).to_bytes(2, "big") + self._packet
        self._in = bytearray()
        self._loop.watch(self._socket, self._write, write=True)

    def _write(self) -> None:
        try:
            self._out = self._out[self._socket.send(self._out) :]
        except BlockingIOError:
            return
        except OSError:
            self._fail()
            return
        if not self._out:
            self._loop.watch(self._socket, self._read)

    def _read(self) -> None:
        try:
            data = self._socket.recv(MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._in += data
        complete = len(self._in) >= 2 and len(self._in) >= 2 + int.from_bytes(self._in[:2], "big")
        if complete and self._accept(bytes(self._in[2 : 2 + int.from_bytes(self._in[:2], "big")])):
            return
        if complete or not data:
            self._fail()

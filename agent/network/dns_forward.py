"""Passes questions on to the host's own name servers: bounded in number and time, one fresh socket each."""

from __future__ import annotations

import errno
import secrets
import socket
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from agent.network.dns_message import (
    DNS_PORT,
    MAX_MESSAGE_BYTES,
    SERVER_FAILURE,
    Query,
    encode_response,
    matches,
    with_id,
)
from agent.network.names import NameTable
from agent.network.reactor import Reactor, Timer
from agent.network.resolvconf import parse_resolv_conf

ATTEMPT_SECONDS = 2.0
ATTEMPTS = 3
MAX_PENDING, MAX_PENDING_PER_CLIENT = 256, 48
_RESOLV_CONF = Path("/etc/resolv.conf")

Reply = Callable[[bytes], None]


class Upstreams:
    """The host's name servers, read again when the file changes. ``fixed`` servers (address, port) replace them."""

    def __init__(self, names: NameTable, fixed: tuple[tuple[str, int], ...] | None = None) -> None:
        self._names = names
        self._fixed = fixed
        self._seen: tuple[int, int] | None = None
        self._servers: tuple[tuple[str, int], ...] = ()

    def servers(self) -> tuple[tuple[str, int], ...]:
        """Whom to ask, in order; never ourselves."""
        if self._fixed is not None:
            return self._fixed
        try:
            status = _RESOLV_CONF.stat()
            if (status.st_mtime_ns, status.st_ino) != self._seen:
                found = parse_resolv_conf(_RESOLV_CONF.read_text(errors="replace")).servers
                self._servers = tuple((server, DNS_PORT) for server in found if not self._names.is_gateway(server))
                self._seen = status.st_mtime_ns, status.st_ino
        except OSError:
            self._servers = ()
        return self._servers


class Forwarder:
    """Runs on the reactor's thread."""

    def __init__(self, reactor: Reactor, upstreams: Upstreams) -> None:
        self._reactor = reactor
        self._upstreams = upstreams
        self._per_client: Counter[str] = Counter()

    @property
    def pending(self) -> int:
        """How many questions wait for an answer."""
        return self._per_client.total()

    def ask(self, client: str, query: Query, packet: bytes, reply: Reply, *, stream: bool = False) -> None:
        """Send ``packet`` on, over TCP if ``stream``; ``reply`` gets the answer or a server failure, exactly once."""
        servers = self._upstreams.servers()
        full = self.pending >= MAX_PENDING or self._per_client[client] >= MAX_PENDING_PER_CLIENT
        if not servers or full:
            reply(encode_response(query, SERVER_FAILURE))
            return
        self._per_client[client] += 1

        def finish(answer: bytes | None) -> None:
            self._per_client[client] -= 1
            if not self._per_client[client]:
                del self._per_client[client]
            reply(with_id(answer, query.id) if answer is not None else encode_response(query, SERVER_FAILURE))

        kind = _StreamAttempt if stream else _DatagramAttempt
        _Question(self._reactor, servers, query, packet, finish).start(kind)


class _Question:
    """One question on its way through the servers."""

    def __init__(
        self,
        reactor: Reactor,
        servers: tuple[tuple[str, int], ...],
        query: Query,
        packet: bytes,
        finish: Callable[[bytes | None], None],
    ) -> None:
        self.reactor = reactor
        self.query = query
        self._packet = packet
        self._finish = finish
        self._order = [servers[n % len(servers)] for n in range(max(ATTEMPTS, len(servers)))]

    def start(self, kind: type[_Attempt]) -> None:
        """Ask the next server, or give up."""
        while self._order:
            server = self._order.pop(0)
            identity = secrets.randbelow(1 << 16)
            attempt = kind(self, identity, with_id(self._packet, identity))
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

    type = socket.SOCK_DGRAM

    def __init__(self, question: _Question, identity: int, packet: bytes) -> None:
        self._question = question
        self._identity = identity
        self._packet = packet
        self._reactor = question.reactor
        self._socket = socket.socket(socket.AF_INET, self.type | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._timer: Timer | None = None

    def connect(self, server: tuple[str, int]) -> None:
        """Send the question. Raises OSError."""
        code = self._socket.connect_ex(server)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, "cannot reach the name server")
        self._timer = self._reactor.call_later(ATTEMPT_SECONDS, self._fail)
        self._send()

    @abstractmethod
    def _send(self) -> None:
        """Put the question on its way."""

    def close(self) -> None:
        """Give the socket back."""
        if self._timer is not None:
            self._timer.cancel()
        self._reactor.forget(self._socket)
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
        self._reactor.watch(self._socket, self._read)

    def _read(self) -> None:
        try:
            self._accept(self._socket.recv(MAX_MESSAGE_BYTES))
        except BlockingIOError:
            pass
        except OSError:
            self._fail()


class _StreamAttempt(_Attempt):
    type = socket.SOCK_STREAM

    def _send(self) -> None:
        self._out = len(self._packet).to_bytes(2, "big") + self._packet
        self._in = bytearray()
        self._reactor.watch(self._socket, self._write, write=True)

    def _write(self) -> None:
        try:
            self._out = self._out[self._socket.send(self._out) :]
        except BlockingIOError:
            return
        except OSError:
            self._fail()
            return
        if not self._out:
            self._reactor.watch(self._socket, self._read)

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

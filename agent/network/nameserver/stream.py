"""DNS over TCP (RFC 7766), one question at a time on each connection, bounded in number, size and time."""

from __future__ import annotations

import _socket

from agent.network.nameserver.message import MAX_MESSAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.network.nameserver.loop import Loop, Timer

    Handle = Callable[[str, bytes, Callable[[bytes | None], None]], None]

IDLE_SECONDS = 10.0
MAX_CONNECTIONS, MAX_CONNECTIONS_PER_CLIENT = 128, 32
_READ_BYTES = 4096
_PAUSE_SECONDS = 0.1
_MAX_BUFFERED = MAX_MESSAGE_BYTES + 2


class StreamServer:
    """One listening socket. ``handle`` gets client address, question and a callback for the reply (None: hang up)."""

    def __init__(self, loop: Loop, listener: _socket.socket, handle: Handle) -> None:
        self._loop = loop
        self._listener = listener
        self._paused = False
        self.handle = handle
        self._connections: dict[_Connection, str] = {}
        loop.watch(listener, self._accept)

    def pause(self) -> None:
        """Accept nobody any more; those who are connected stay so."""
        self._paused = True
        self._loop.forget(self._listener)

    def close(self) -> None:
        """Stop listening and hang up on everybody."""
        self._loop.forget(self._listener)
        self._listener.close()
        for connection in tuple(self._connections):
            connection.close()

    def _accept(self) -> None:
        try:
            descriptor, (client, _) = self._listener._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return
        except OSError:
            self._rest()
            return
        accepted = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, descriptor)
        clients = list(self._connections.values())
        if len(clients) >= MAX_CONNECTIONS or clients.count(client) >= MAX_CONNECTIONS_PER_CLIENT:
            accepted.close()
            return
        accepted.setblocking(False)
        connection = _Connection(self._loop, accepted, client, self)
        self._connections[connection] = client

    def _rest(self) -> None:
        """No descriptors are left, or the client has gone: do not spin."""
        self._loop.forget(self._listener)
        self._loop.call_later(_PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._listener.fileno() >= 0 and not self._paused:
            self._loop.watch(self._listener, self._accept)

    def ended(self, connection: _Connection) -> None:
        """A connection is over."""
        self._connections.pop(connection, None)


class _Connection:
    def __init__(self, loop: Loop, stream: _socket.socket, client: str, server: StreamServer) -> None:
        self._loop = loop
        self._stream = stream
        self._client = client
        self._server = server
        self._in = bytearray()
        self._out = b""
        self._busy = False
        self._open = True
        self._timer: Timer = loop.call_later(IDLE_SECONDS, self.close)
        loop.watch(stream, self._read)

    def close(self) -> None:
        self._open = False
        self._timer.cancel()
        self._loop.forget(self._stream)
        self._stream.close()
        self._server.ended(self)

    def _read(self) -> None:
        try:
            data = self._stream.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._in += data
        if not data or len(self._in) > _MAX_BUFFERED:
            self.close()
        else:
            self._next()

    def _next(self) -> None:
        length = int.from_bytes(self._in[:2], "big")
        if self._busy or len(self._in) < 2 or len(self._in) < 2 + length:
            return
        packet = bytes(self._in[2 : 2 + length])
        del self._in[: 2 + length]
        self._busy = True
        self._loop.forget(self._stream)
        self._server.handle(self._client, packet, self._reply)

    def _reply(self, answer: bytes | None) -> None:
        if not self._open:
            return
        if answer is None:
            self.close()
            return
        self._out = len(answer).to_bytes(2, "big") + answer
        self._timer.cancel()
        self._timer = self._loop.call_later(IDLE_SECONDS, self.close)
        self._write()

    def _write(self) -> None:
        try:
            self._out = self._out[self._stream.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._out:
            self._loop.watch(self._stream, self._write, write=True)
            return
        self._busy = False
        self._loop.watch(self._stream, self._read)
        self._loop.call_soon(self._continue)

    def _continue(self) -> None:
        if self._open:
            self._next()

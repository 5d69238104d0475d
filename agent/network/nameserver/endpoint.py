"""The two sockets of one gateway address: UDP and TCP, port 53. The agent binds them, the name server reads them."""

from __future__ import annotations

import _socket

from agent.network.nameserver.message import DNS_PORT
from agent.network.nameserver.stream import StreamServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.network.nameserver.loop import Loop

    Pair = tuple[_socket.socket, _socket.socket]

_IP_FREEBIND = 15
_SO_RCVBUFFORCE = 33
_ROOM_BYTES = 1 << 20
_BACKLOG = 64
_QUERY_BYTES = 4096


class Ask:
    """One packet from one client, and the way back; ``reply`` takes None for "nothing"."""

    __slots__ = ("client", "gateway", "packet", "reply", "stream")

    def __init__(
        self, gateway: str, client: str, packet: bytes, reply: Callable[[bytes | None], None], *, stream: bool
    ) -> None:
        self.gateway = gateway
        self.client = client
        self.packet = packet
        self.reply = reply
        self.stream = stream


class Endpoint:
    """Reads the sockets of one gateway and hands every question to ``handle``."""

    def __init__(self, loop: Loop, gateway: str, pair: Pair, handle: Callable[[Ask], None]) -> None:
        self._loop = loop
        self._gateway = gateway
        self._handle = handle
        self.pair = pair
        for one in pair:
            one.setblocking(False)
        self._datagrams, listener = pair
        self._streams = StreamServer(loop, listener, self._handle_stream)
        loop.watch(self._datagrams, self._read)

    def pause(self) -> None:
        """Read no more, but stay able to answer what was read."""
        self._loop.forget(self._datagrams)
        self._streams.pause()

    def close(self) -> None:
        """Let go of the sockets; what waits in them is for whoever else holds them."""
        self._loop.forget(self._datagrams)
        self._datagrams.close()
        self._streams.close()

    def _read(self) -> None:
        """One question a turn: what the agent said before it was asked is then in the zone."""
        try:
            packet, sender = self._datagrams.recvfrom(_QUERY_BYTES)
        except OSError:
            return
        self._handle(Ask(self._gateway, sender[0], packet, self._replier(sender), stream=False))

    def _replier(self, sender: tuple[str, int]) -> Callable[[bytes | None], None]:
        def reply(message: bytes | None) -> None:
            if message is not None:
                try:
                    self._datagrams.sendto(message, sender)
                except OSError:
                    pass

        return reply

    def _handle_stream(self, client: str, packet: bytes, reply: Callable[[bytes | None], None]) -> None:
        self._handle(Ask(self._gateway, client, packet, reply, stream=True))


def bind_pair(gateway: str) -> Pair:
    """The bound sockets of a gateway, which need not be an address of this host yet. Raises OSError."""
    datagrams = _bind(gateway, _socket.SOCK_DGRAM)
    try:
        _make_room(datagrams)
        listener = _bind(gateway, _socket.SOCK_STREAM)
        listener.listen(_BACKLOG)
    except OSError:
        datagrams.close()
        raise
    return datagrams, listener


def _make_room(datagrams: _socket.socket) -> None:
    """For the questions of many containers while one name server follows another; the host's own limit aside."""
    try:
        datagrams.setsockopt(_socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM_BYTES)
    except PermissionError:
        datagrams.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, _ROOM_BYTES)


def _bind(address: str, kind: int) -> _socket.socket:
    bound = _socket.socket(_socket.AF_INET, kind | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    try:
        bound.setsockopt(_socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if kind == _socket.SOCK_STREAM:
            bound.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        bound.bind((address, DNS_PORT))
    except OSError:
        bound.close()
        raise
    return bound


def take_pair(descriptors: list[int]) -> Pair:
    """The sockets behind two descriptors, which are theirs from now on."""
    datagrams, listener = descriptors
    return (
        _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM, 0, datagrams),
        _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, listener),
    )


def close_pair(pair: Pair) -> None:
    """Close both."""
    for one in pair:
        one.close()

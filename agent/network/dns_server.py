"""The embedded name server: UDP and TCP port 53 on the gateway address of every network, on the reactor's thread."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable

from agent.errors import HoldfastError
from agent.network.claims import find_listener
from agent.network.dns_answers import answer
from agent.network.dns_forward import Forwarder
from agent.network.dns_message import DNS_PORT, MAX_MESSAGE_BYTES, MalformedQuery, Query, decode_query, udp_limit
from agent.network.dns_stream import StreamServer
from agent.network.model import NetworkFailed, NetworkInfo, Port
from agent.network.names import NameTable
from agent.network.reactor import Reactor

QUERIES_PER_SECOND = 2000
_BATCH = 64
_IP_FREEBIND = 15
_BACKLOG = 64
_QUERY_BYTES = 4096


class NameServer:
    """``listen`` and ``ignore`` may be called from any thread; answering happens on the reactor's.

    A client that asks more than QUERIES_PER_SECOND is not answered for the rest of that second, so that no
    container can keep the agent from its work.
    """

    def __init__(self, reactor: Reactor, names: NameTable, forwarder: Forwarder) -> None:
        self._reactor = reactor
        self._names = names
        self._forwarder = forwarder
        self._endpoints: dict[str, _Endpoint] = {}
        self._asked: Counter[str] = Counter()

    def listen(self, info: NetworkInfo) -> None:
        """Answer on a network's gateway; one that is served already is fine. Raises NetworkFailed."""
        self._reactor.call_and_wait(lambda: self._listen(info))

    def ignore(self, network: str) -> None:
        """Stop answering on a network's gateway."""
        self._reactor.call_and_wait(lambda: self._ignore(network))

    def close(self) -> None:
        """Stop answering."""
        for network in tuple(self._endpoints):
            self.ignore(network)

    def _listen(self, info: NetworkInfo) -> None:
        if info.name not in self._endpoints:
            self._endpoints[info.name] = _Endpoint(self._reactor, info, self._handle)

    def _ignore(self, network: str) -> None:
        endpoint = self._endpoints.pop(network, None)
        if endpoint is not None:
            endpoint.close()

    def _handle(self, ask: _Ask) -> None:
        if self._is_flooding(ask.client):
            ask.reply(None)
            return
        try:
            query = decode_query(ask.packet)
        except MalformedQuery as error:
            ask.reply(error.reply)
            return
        limit = MAX_MESSAGE_BYTES if ask.stream else udp_limit(query)
        own = answer(self._names, ask.network, ask.client, query, limit)
        if own is not None:
            ask.reply(own)
        else:
            self._forward(ask, query)

    def _forward(self, ask: _Ask, query: Query) -> None:
        self._forwarder.ask(ask.client, query, ask.packet, ask.reply, stream=ask.stream)

    def _is_flooding(self, client: str) -> bool:
        if not self._asked:
            self._reactor.call_later(1.0, self._asked.clear)
        self._asked[client] += 1
        return self._asked[client] > QUERIES_PER_SECOND


class _Ask:
    """One packet from one client, and the way back."""

    __slots__ = ("client", "network", "packet", "reply", "stream")

    def __init__(
        self, network: str, client: str, packet: bytes, reply: Callable[[bytes | None], None], *, stream: bool
    ) -> None:
        self.network = network
        self.client = client
        self.packet = packet
        self.reply = reply
        self.stream = stream


class _Endpoint:
    """The two sockets of one network."""

    def __init__(self, reactor: Reactor, info: NetworkInfo, handle: Callable[[_Ask], None]) -> None:
        self._reactor = reactor
        self._network = info.name
        self._handle = handle
        try:
            self._datagrams = _bind(info.gateway, socket.SOCK_DGRAM)
            try:
                listener = _bind(info.gateway, socket.SOCK_STREAM)
            except OSError:
                self._datagrams.close()
                raise
        except OSError as error:
            raise _explain(info, error) from error
        listener.listen(_BACKLOG)
        self._streams = StreamServer(reactor, listener, self._handle_stream)
        reactor.watch(self._datagrams, self._read)

    def close(self) -> None:
        self._reactor.forget(self._datagrams)
        self._datagrams.close()
        self._streams.close()

    def _read(self) -> None:
        for _ in range(_BATCH):
            try:
                packet, sender = self._datagrams.recvfrom(_QUERY_BYTES)
            except OSError:
                return
            self._handle(_Ask(self._network, sender[0], packet, self._replier(sender), stream=False))

    def _replier(self, sender: tuple[str, int]) -> Callable[[bytes | None], None]:
        def reply(message: bytes | None) -> None:
            if message is not None:
                try:
                    self._datagrams.sendto(message, sender)
                except OSError:
                    pass

        return reply

    def _handle_stream(self, client: str, packet: bytes, reply: Callable[[bytes | None], None]) -> None:
        self._handle(_Ask(self._network, client, packet, reply, stream=True))


def _bind(address: str, kind: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        bound.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if kind == socket.SOCK_STREAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address, DNS_PORT))
    except OSError:
        bound.close()
        raise
    return bound


def _explain(info: NetworkInfo, error: OSError) -> HoldfastError:
    holder = find_listener(Port("", DNS_PORT, "udp")) or find_listener(Port("", DNS_PORT, "tcp"))
    return NetworkFailed(
        f"network {info.name}: no name server on {info.gateway}:{DNS_PORT}: {error.strerror}",
        hint=f"{holder} listens on every address; bind it to its own ones" if holder else None,
    )

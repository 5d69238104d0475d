"""NETLINK_SOCK_DIAG (linux/inet_diag.h): the TCP connections that others have made to a network namespace.

The namespace is a container's, so what is read of it is bounded: a dump is left when enough is known.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from agent.kernel.netlink import (
    DONE,
    DUMP,
    ERROR,
    REQUEST,
    Request,
    decode_error,
    encode_message,
    split_messages,
)
from agent.kernel.netns import call_in_namespace
from agent.values import frozen

SOCK_DIAG = 4
MOST_SOCKETS = 20_000
MOST_PORTS = 4_096
_BY_FAMILY = 20
_TCP = 6
_ESTABLISHED, _SYN_RECEIVED, _FIN_WAIT_1, _CLOSE_WAIT, _LAST_ACK, _LISTEN, _CLOSING = 1, 3, 4, 8, 9, 10, 11
LISTENING = 1 << _LISTEN
OPEN = sum(1 << state for state in (_ESTABLISHED, _SYN_RECEIVED, _FIN_WAIT_1, _CLOSE_WAIT, _LAST_ACK, _CLOSING))
_REQUEST = struct.Struct("=BBBxI48x")
_ANSWER = struct.Struct("=BBBB")
_PORT = struct.Struct("!H")
_SHORTEST = _ANSWER.size + _PORT.size
_RECEIVE_BYTES = 1 << 16
_PATIENCE_SECONDS = 5


@frozen
class Inbound:
    """Whether anything listens, and how many connections to where it listens may still have something to say. Counted
    to ``MOST_SOCKETS``."""

    listening: bool
    connections: int = 0


def encode_dump(family: int, states: int) -> Request:
    """The request for all TCP sockets of an address family that are in one of the states (a mask)."""
    return Request(_BY_FAMILY, _REQUEST.pack(family, _TCP, 0, states), "list TCP sockets")


def decode_local_port(payload: bytes) -> int | None:
    """The local port of a listed socket; None for what is none."""
    return _PORT.unpack_from(payload, _ANSWER.size)[0] if len(payload) >= _SHORTEST else None


def count_inbound(namespace: int) -> Inbound:
    """Look into the network namespace behind a descriptor. Raises OSError."""
    families = (socket.AF_INET, socket.AF_INET6)
    ports: set[int] = set()
    for family in families:
        for port in _list_ports(namespace, encode_dump(family, LISTENING)):
            ports.add(port)
            if len(ports) >= MOST_PORTS:
                break
    if not ports:
        return Inbound(listening=False)
    connections = seen = 0
    for family in families:
        for port in _list_ports(namespace, encode_dump(family, OPEN)):
            seen += 1
            connections += port in ports
            if seen >= MOST_SOCKETS:
                return Inbound(True, connections)
    return Inbound(True, connections)


def _list_ports(namespace: int, request: Request) -> Iterator[int]:
    """The local ports of a dump, on a socket of its own, which may be left at any time."""
    with call_in_namespace(namespace, _open) as netlink:
        netlink.send(encode_message(request, REQUEST | DUMP, 1))
        while True:
            for message in split_messages(netlink.recv(_RECEIVE_BYTES)):
                if message.kind in (DONE, ERROR):
                    if message.kind == ERROR and (failure := decode_error(message, request.purpose)):
                        raise failure
                    return
                port = decode_local_port(message.payload)
                if port is not None:
                    yield port


def _open() -> socket.socket:
    found = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, SOCK_DIAG)
    found.settimeout(_PATIENCE_SECONDS)
    return found

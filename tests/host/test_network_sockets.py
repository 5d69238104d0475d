"""The connections of a network namespace, counted from outside of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from agents import eventually

from agent.kernel.netlink import ROUTE, NetlinkSocket
from agent.kernel.netlink_route import link_up_request
from agent.kernel.netns import call_in_namespace, create_network_namespace
from agent.kernel.sockdiag import LISTENING, Inbound, count_inbound, decode_local_port, encode_dump

pytestmark = pytest.mark.host
Inside = Callable[[Callable[[], Any]], tuple[int, Any]]


@pytest.fixture
def inside() -> Iterator[Inside]:
    def prepare() -> None:
        link = NetlinkSocket(ROUTE)
        link.ask(link_up_request("lo"))
        link.close()

    descriptor, _ = create_network_namespace(prepare)
    yield lambda call: (descriptor, call_in_namespace(descriptor, call))
    os.close(descriptor)


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_connections_to_listening_ports_count(inside: Inside, family: int, address: str) -> None:
    def listen() -> socket.socket:
        listener = socket.socket(family)
        listener.bind((address, 0))
        listener.listen()
        return listener

    namespace, _ = inside(lambda: None)
    assert count_inbound(namespace) == Inbound(listening=False)
    _, listener = inside(listen)
    assert isinstance(listener, socket.socket)
    assert count_inbound(namespace) == Inbound(True, 0)
    _, clients = inside(lambda: [socket.create_connection(listener.getsockname()[:2]) for _ in range(3)])
    assert isinstance(clients, list)
    eventually(lambda: count_inbound(namespace) == Inbound(True, 3), what="both ends of all three")
    accepted = [listener.accept()[0] for _ in clients]
    for connection in accepted:
        connection.close()
    for client in clients:
        client.close()
    eventually(lambda: count_inbound(namespace) == Inbound(True, 0), what="the end of all three")
    listener.close()
    assert count_inbound(namespace) == Inbound(listening=False)


def test_what_is_no_socket_is_passed_over() -> None:
    assert decode_local_port(b"\x02\x0a\x00\x00\x00") is None
    assert decode_local_port(bytes(4) + b"\x1f\x90") == 8080
    assert len(encode_dump(socket.AF_INET, LISTENING).payload) == 56

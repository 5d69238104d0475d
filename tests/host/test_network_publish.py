"""Published ports: balanced, on every address that was asked for and on no other, from every side."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from networklab import Lab, Outside, addresses, ask_tcp, ask_udp, cannot_reach, open_udp, resolve

from agent.engine.model import PublishedPort

pytestmark = [pytest.mark.host, pytest.mark.alone]
APP, OTHER = "shop_default", "blog_default"
PORT, TARGET = 17001, 8000
UDP = socket.SOCK_DGRAM


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    lab.stack.recover([])
    lab.stack.ensure_network(APP)
    yield lab
    lab.end()


def replicas(lab: Lab, count: int, kind: int = socket.SOCK_STREAM) -> tuple[tuple[str, int], ...]:
    hosts = [lab.sandbox(f"web-{n}", APP) for n in range(count)]
    for host in hosts:
        lab.serve(host, TARGET, kind)
    return tuple((host.address, TARGET) for host in hosts)


def test_loopback_port_is_shared_out_evenly(lab: Lab) -> None:
    lab.stack.publish([PublishedPort("127.0.0.1", PORT, "tcp", replicas(lab, 3))])
    counts = Counter(ask_tcp("127.0.0.1", PORT).split()[0] for _ in range(30))
    assert counts == {"web-0": 10, "web-1": 10, "web-2": 10}


def test_udp_port_answers_on_loopback(lab: Lab) -> None:
    lab.stack.publish([PublishedPort("127.0.0.1", PORT, "udp", replicas(lab, 2, UDP))])
    assert {ask_udp("127.0.0.1", PORT).split()[0] for _ in range(8)} == {"web-0", "web-1"}


def test_every_address_answers_and_outsiders_are_seen_as_themselves(lab: Lab, outside: Outside) -> None:
    backends = replicas(lab, 2)
    lab.stack.publish([PublishedPort("0.0.0.0", PORT, "tcp", backends)])
    assert ask_tcp("127.0.0.1", PORT).startswith("web-")
    assert ask_tcp(outside.host_address, PORT).startswith("web-")
    seen = {outside.run(lambda: ask_tcp(outside.host_address, PORT)).split()[1] for _ in range(4)}
    assert seen == {outside.address}


def test_udp_clients_outside_are_seen_as_themselves(lab: Lab, outside: Outside) -> None:
    lab.stack.publish([PublishedPort("", PORT, "udp", replicas(lab, 1, UDP))])
    assert outside.run(lambda: ask_udp(outside.host_address, PORT)) == f"web-0 {outside.address}"


def test_port_on_one_address_is_on_no_other(lab: Lab, outside: Outside) -> None:
    lab.stack.publish([PublishedPort(outside.host_address, PORT, "tcp", replicas(lab, 1))])
    assert outside.run(lambda: ask_tcp(outside.host_address, PORT)).startswith("web-0")
    with pytest.raises(ConnectionRefusedError):
        ask_tcp("127.0.0.1", PORT)


def test_loopback_port_is_out_of_reach_for_everybody_else(lab: Lab, outside: Outside) -> None:
    lab.stack.ensure_network(OTHER)
    stranger = lab.sandbox("stranger", OTHER)
    (address, _), *_ = backends = replicas(lab, 1)
    lab.stack.publish([PublishedPort("127.0.0.1", PORT, "tcp", backends)])
    gateway = next(info.gateway for info in lab.stack.networks() if info.name == OTHER)
    outside.route("add", "127.0.0.1/32", "via", outside.host_address)
    outside.route("del", "table", "local", "127.0.0.1")
    outside.route("del", "table", "local", "127.0.0.0/8")
    for target, port in ((outside.host_address, PORT), ("127.0.0.1", PORT), (address, TARGET)):
        assert outside.run(lambda to=target, at=port: cannot_reach(lambda: ask_tcp(to, at, 0.4)))
    for target, port in ((gateway, PORT), (outside.host_address, PORT), (address, TARGET)):
        assert stranger.run(lambda to=target, at=port: cannot_reach(lambda: ask_tcp(to, at, 0.4)))
    assert ask_tcp("127.0.0.1", PORT).startswith("web-0")


def test_containers_reach_published_ports_from_any_network_even_their_own(lab: Lab, outside: Outside) -> None:
    lab.stack.ensure_network(OTHER)
    backends = replicas(lab, 2)
    neighbour, stranger = lab.sandbox("neighbour", APP), lab.sandbox("stranger", OTHER)
    lab.stack.publish([PublishedPort("0.0.0.0", PORT, "tcp", backends)])
    for host in (neighbour, stranger):
        names = {host.run(lambda: ask_tcp(outside.host_address, PORT)).split()[0] for _ in range(4)}
        assert names == {"web-0", "web-1"}
    assert stranger.run(lambda: ask_tcp(outside.host_address, PORT)).split()[1] == stranger.address


def test_backends_come_and_go(lab: Lab) -> None:
    first, second = replicas(lab, 2)
    lab.stack.publish([PublishedPort("127.0.0.1", PORT, "tcp", (first, second))])
    lab.stack.publish([PublishedPort("127.0.0.1", PORT, "tcp", (second,))])
    assert {ask_tcp("127.0.0.1", PORT).split()[0] for _ in range(6)} == {"web-1"}


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_port_without_backends_refuses_at_once(lab: Lab, outside: Outside, address: str) -> None:
    lab.stack.publish([PublishedPort(address, PORT, "tcp"), PublishedPort(address, PORT, "udp")])
    with pytest.raises(ConnectionRefusedError):
        ask_tcp("127.0.0.1", PORT)
    with pytest.raises(ConnectionRefusedError):
        ask_udp("127.0.0.1", PORT)
    with pytest.raises(ConnectionRefusedError):
        outside.run(lambda: ask_tcp(outside.host_address, PORT))


def test_udp_clients_move_on_when_their_backend_leaves(lab: Lab) -> None:
    first, second = replicas(lab, 2, UDP)
    lab.stack.publish([PublishedPort("127.0.0.1", PORT, "udp", (first,))])
    with open_udp("127.0.0.1", PORT) as client:
        client.send(b"?")
        assert client.recv(99).startswith(b"web-0")
        lab.stack.publish([PublishedPort("127.0.0.1", PORT, "udp", (second,))])
        client.send(b"?")
        assert client.recv(99).startswith(b"web-1")


def test_udp_clients_that_met_nobody_are_served_later(lab: Lab) -> None:
    (backend,) = replicas(lab, 1, UDP)
    with open_udp("127.0.0.1", PORT) as client:
        client.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(99)
        lab.stack.publish([PublishedPort("127.0.0.1", PORT, "udp", (backend,))])
        client.send(b"?")
        assert client.recv(99).startswith(b"web-0")


def test_port_of_another_process_is_left_to_it_and_taken_when_free(lab: Lab) -> None:
    backends = replicas(lab, 1)
    with socket.create_server(("127.0.0.1", PORT)) as rival:
        (problem,) = lab.stack.publish(
            [PublishedPort("127.0.0.1", PORT, "tcp", backends), PublishedPort("127.0.0.1", PORT + 1, "tcp", backends)]
        )
        assert problem.reason == "PortConflict"
        assert "(pid " in problem.message
        assert ask_tcp("127.0.0.1", PORT + 1).startswith("web-0")
        with socket.create_connection(("127.0.0.1", PORT)):
            rival.accept()[0].close()
    assert lab.stack.publish([PublishedPort("127.0.0.1", PORT, "tcp", backends)]) == ()
    assert ask_tcp("127.0.0.1", PORT).startswith("web-0")


def test_published_port_cannot_be_taken_by_another_process(lab: Lab) -> None:
    unused = PORT + 2
    lab.stack.publish([PublishedPort("0.0.0.0", unused, "tcp", replicas(lab, 1))])
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", unused))
    lab.stack.publish([])
    socket.create_server(("127.0.0.1", unused)).close()


def test_what_cannot_be_published_is_said(lab: Lab) -> None:
    problems = lab.stack.publish([PublishedPort("::1", PORT, "tcp"), PublishedPort("", PORT, "sctp")])
    assert [problem.reason for problem in problems] == ["Unsupported", "Unsupported"]


def test_connections_survive_changes_of_the_table(lab: Lab) -> None:
    backends = replicas(lab, 2)
    host = lab.sandbox("long", APP)
    listener = host.run(lambda: socket.create_server(("0.0.0.0", TARGET)))
    lab.stack.publish([PublishedPort("127.0.0.1", PORT, "tcp", ((host.address, TARGET),))])
    with listener, socket.create_connection(("127.0.0.1", PORT), 3) as client:
        server, _ = listener.accept()
        with server:
            for _ in range(5):
                lab.stack.publish([PublishedPort("127.0.0.1", PORT, "tcp", backends)])
                client.sendall(b"still here")
                assert server.recv(99) == b"still here"
                lab.stack.publish([PublishedPort("127.0.0.1", PORT, "tcp", ())])


def test_published_name_server_and_our_own_live_side_by_side(lab: Lab, outside: Outside) -> None:
    host = lab.sandbox("pihole", APP)
    lab.serve(host, 53, UDP)
    lab.stack.publish([PublishedPort("", 53, "udp", ((host.address, 53),))])
    assert outside.run(lambda: ask_udp(outside.host_address, 53)) == f"pihole {outside.address}"
    assert addresses(host.run(lambda: resolve(host.dns, "pihole"))) == [host.address]
    lab.stack.publish([PublishedPort("", 53, "udp")])
    assert addresses(host.run(lambda: resolve(host.dns, "pihole"))) == [host.address]

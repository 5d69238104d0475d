"""Small parts of the stack that need no kernel change: records, claims, resolv.conf, timers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.network.claims import Claims, find_listener
from agent.network.model import NetworkInfo, Port
from agent.network.reactor import Reactor
from agent.network.records import HostRecord, NetworkRecords, SandboxRecord
from agent.network.resolvconf import ResolvConf, parse_resolv_conf, render_resolv_conf
from agent.store.database import Database
from tests.ports import reserve_port


@pytest.fixture
def records(tmp_path: Path) -> Iterator[NetworkRecords]:
    database = Database(tmp_path / "db")
    yield NetworkRecords(database)
    database.close()


def test_records_come_back_as_they_were(records: NetworkRecords) -> None:
    info = NetworkInfo("app", "hf0-1", "10.89.0.0/22", "10.89.0.1", internal=True)
    sandbox = SandboxRecord("c1", "web", {"b": "10.89.4.2", "a": "10.89.0.2"}, {"b": ("x", "y")}, ("web.1",))
    ports = (Port("", 80, "tcp", (("10.89.0.2", 8080),)), Port("127.0.0.1", 81, "udp"))
    records.save_network(info)
    records.save_sandbox(sandbox)
    records.save_ports(ports)
    records.save_service_names("app", {"web": ("10.89.0.2",), "none": ()})
    records.save_host(HostRecord(True, ("eth0",)))
    assert records.load_networks() == {"app": info}
    assert records.load_sandboxes() == {"c1": sandbox}
    assert list(records.load_sandboxes()["c1"].addresses) == ["b", "a"]
    assert records.load_ports() == ports
    assert records.load_service_names() == {"app": {"web": ("10.89.0.2",), "none": ()}}
    assert records.load_host() == HostRecord(True, ("eth0",))
    records.clear()
    assert (records.load_networks(), records.load_ports(), records.load_host()) == ({}, (), HostRecord())


def test_host_resolv_conf_is_read_like_the_c_library_does() -> None:
    text = "# c\nnameserver 192.0.2.1 ; x\nnameserver fe80::1%eth0\ndomain a.example\nsearch b.example c.example\n"
    found = parse_resolv_conf(text + "options ndots:2 timeout:1\noptions rotate\nnameserver\nbinary \x00\n")
    assert found == ResolvConf(("192.0.2.1",), ("b.example", "c.example"), ("ndots:2", "timeout:1", "rotate"))


def test_container_resolv_conf_asks_us_and_keeps_the_search_list() -> None:
    text = render_resolv_conf("10.89.0.1", ResolvConf(("192.0.2.1",), ("b.example",), ("ndots:2",)))
    assert text == "nameserver 10.89.0.1\nsearch b.example\noptions ndots:2\n"
    assert parse_resolv_conf(text) == ResolvConf(("10.89.0.1",), ("b.example",), ("ndots:2",))
    assert "ndots:0" in render_resolv_conf("10.89.0.1", ResolvConf())


def test_claims_hold_ports_and_name_who_was_first() -> None:
    claims = Claims()
    number = reserve_port()
    with socket.create_server(("127.0.0.1", number)):
        port = Port("127.0.0.1", number, "tcp")
        held, (conflict,) = claims.update([port])
        assert held == ()
        assert f"(pid {Path('/proc/self').readlink()})" in conflict.message
    assert claims.update([port]) == ((port,), ())
    assert find_listener(port) == ""
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", number), reuse_port=True)
    claims.close()


def test_claims_refuse_a_port_twice_and_an_address_the_host_has_not() -> None:
    claims = Claims()
    number = reserve_port()
    one, every = Port("127.0.0.1", number, "tcp"), Port("", number, "tcp")
    foreign = Port("203.0.113.99", number, "tcp")
    held, conflicts = claims.update([one, one, every, foreign])
    assert held == (one,)
    messages = " | ".join(conflict.message for conflict in conflicts)
    assert "published twice" in messages
    assert "already published on 127.0.0.1" in messages
    assert "no address 203.0.113.99" in messages
    claims.close()


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    reactor.start()
    yield reactor
    reactor.end()


def test_reactor_calls_timers_in_order_and_survives_errors(reactor: Reactor) -> None:
    called: list[int] = []
    done = threading.Event()

    def plan() -> None:
        reactor.call_later(0.02, done.set)
        reactor.call_later(0.01, lambda: called.append(2))
        reactor.call_later(0.0, lambda: called.append(1))
        reactor.call_later(0.005, lambda: called.append(9)).cancel()
        reactor.call_later(0.001, lambda: called.append(1 // 0))

    reactor.call_soon(plan)
    assert done.wait(60)
    assert called == [1, 2]


def test_reactor_watches_and_forgets(reactor: Reactor) -> None:
    one, two = socket.socketpair()
    heard = threading.Event()

    def hear() -> None:
        one.recv(10)
        reactor.forget(one)
        reactor.forget(one)
        heard.set()

    with one, two:
        reactor.call_soon(lambda: reactor.watch(one, hear))
        two.send(b"x")
        assert heard.wait(60)

"""The embedded name server as containers meet it."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import dnslib
import pytest
from networklab import Lab, Sandboxed, addresses, resolve

from agent.network.nameserver.forward import MAX_PENDING_PER_CLIENT

pytestmark = pytest.mark.host
APP, OTHER, SECRET = "shop_default", "blog_default", "shop_secret"
NX_DOMAIN, SERVER_FAILURE = 3, 2


def bind_both() -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket on one port; that of the one may be taken for the other."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        try:
            return udp, socket.create_server(udp.getsockname())
        except OSError:
            udp.close()


class Upstream:
    """A name server beyond ours: answers 192.0.2.7 to everything over UDP and TCP, and remembers who asked for what."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._udp, self._tcp = bind_both()
        self.address = self._udp.getsockname()
        for serve in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def _answer(self, packet: bytes, size: int) -> bytes:
        question = dnslib.DNSRecord.parse(packet)
        self.asked.append(str(question.q.qname))
        reply = question.reply()
        if str(question.q.qname).startswith("big") and size < 1000:
            reply.header.tc = 1
        else:
            reply.add_answer(dnslib.RR(question.q.qname, rdata=dnslib.A("192.0.2.7"), ttl=60))
        return bytes(reply.pack())

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                packet, peer = self._udp.recvfrom(4096)
                if peer is None:
                    return
                if not packet[12:].startswith(b"\x06silent"):
                    self._udp.sendto(self._answer(packet, 512), peer)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, _ = self._tcp.accept()
                with stream:
                    length = int.from_bytes(stream.recv(2), "big")
                    reply = self._answer(stream.recv(length), 65535)
                    stream.sendall(len(reply).to_bytes(2, "big") + reply)

    def close(self) -> None:
        for each in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


@pytest.fixture
def lab(tmp_path: Path, upstream: Upstream) -> Iterator[Lab]:
    lab = Lab(tmp_path, upstreams=(upstream.address,))
    lab.stack.recover([])
    lab.stack.ensure_network(APP)
    yield lab
    lab.end()


def ask(host: Sandboxed, name: str, kind: str = "A", *, tcp: bool = False, edns: bool = False) -> dnslib.DNSRecord:
    return host.run(lambda: resolve(host.dns, name, kind, tcp=tcp, edns=edns))


def test_names_of_containers_services_and_aliases(lab: Lab) -> None:
    web, db = lab.sandbox("web-1", APP), lab.sandbox("db-1", APP, aliases=("store",))
    lab.stack.set_service_names(APP, {"db": (db.address,)})
    for name in ("db-1", "store", "db", "DB", "Store.", f"db.{APP}"):
        assert addresses(ask(web, name)) == [db.address], name
    assert ask(web, "db").rr[0].ttl == 0


def test_service_name_stands_for_all_replicas_another_first_each_time(lab: Lab) -> None:
    hosts = [lab.sandbox(f"web-{n}", APP) for n in range(3)]
    everyone = {host.address for host in hosts}
    lab.stack.set_service_names(APP, {"web": tuple(everyone)})
    replies = [addresses(ask(hosts[0], "web")) for _ in range(3)]
    assert all(set(reply) == everyone for reply in replies)
    assert {reply[0] for reply in replies} == everyone


def test_known_name_without_an_answer_is_no_data(lab: Lab, upstream: Upstream) -> None:
    web = lab.sandbox("web-1", APP)
    lab.stack.set_service_names(APP, {"empty": ()})
    for name, kind in (("web-1", "AAAA"), ("web-1", "MX"), ("empty", "A")):
        reply = ask(web, name, kind)
        assert (reply.header.rcode, reply.rr) == (0, [])
    assert upstream.asked == []


def test_reverse_names(lab: Lab, upstream: Upstream) -> None:
    web, db = lab.sandbox("web-1", APP), lab.sandbox("db-1", APP)
    backwards = ".".join(reversed(db.address.split("."))) + ".in-addr.arpa"
    assert addresses(ask(web, backwards, "PTR")) == ["db-1."]
    nobody = ".".join(reversed([*db.address.split(".")[:3], "200"])) + ".in-addr.arpa"
    assert ask(web, nobody, "PTR").header.rcode == NX_DOMAIN
    assert upstream.asked == []
    ask(web, "1.2.0.192.in-addr.arpa", "PTR")
    assert set(upstream.asked) == {"1.2.0.192.in-addr.arpa."}


def test_long_answers_are_cut_without_edns_and_whole_with_it_or_over_tcp(lab: Lab) -> None:
    web = lab.sandbox("web-1", APP)
    many = tuple(f"10.1.1.{n}" for n in range(1, 61))
    lab.stack.set_service_names(APP, {"web": many})
    plain = ask(web, "web")
    assert plain.header.tc == 1
    assert 0 < len(plain.rr) < len(many)
    assert len(bytes(plain.pack())) <= 512
    assert set(addresses(ask(web, "web", edns=True))) == set(many)
    assert set(addresses(ask(web, "web", tcp=True))) == set(many)


def test_other_names_are_forwarded(lab: Lab, upstream: Upstream) -> None:
    web = lab.sandbox("web-1", APP)
    assert addresses(ask(web, "example.com")) == ["192.0.2.7"]
    assert addresses(ask(web, "example.org", tcp=True)) == ["192.0.2.7"]
    assert ask(web, "big.example.com").header.tc == 1
    assert addresses(ask(web, "big.example.com", tcp=True)) == ["192.0.2.7"]
    assert set(upstream.asked) == {"example.com.", "example.org.", "big.example.com."}


def test_name_server_that_does_not_answer_delays_nobody_else(lab: Lab) -> None:
    web = lab.sandbox("web-1", APP)
    packet = dnslib.DNSRecord.question("silent.example.com").pack()
    waiting = web.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with waiting:
        for _ in range(100):
            waiting.sendto(packet, (web.dns, 53))
        waiting.sendto(dnslib.DNSRecord.question("web-1").pack(), (web.dns, 53))
        waiting.settimeout(30)
        replies = [dnslib.DNSRecord.parse(waiting.recv(600))]
        while not replies[-1].rr:
            replies.append(dnslib.DNSRecord.parse(waiting.recv(600)))
        *refused, answer = replies
        assert addresses(answer) == [web.address]
        assert len(refused) == 100 - MAX_PENDING_PER_CLIENT, "the others still wait"
        assert {reply.header.rcode for reply in refused} <= {SERVER_FAILURE}
        assert addresses(ask(web, "web-1")) == [web.address]


def test_names_end_at_the_network(lab: Lab) -> None:
    lab.stack.ensure_network(OTHER)
    web, stranger, both = lab.sandbox("web-1", APP), lab.sandbox("stranger", OTHER), lab.sandbox("both", APP, OTHER)
    assert addresses(ask(stranger, "web-1")) == ["192.0.2.7"]
    assert addresses(ask(both, "web-1")) == [web.address]
    assert addresses(ask(both, "stranger")) == [stranger.address]


def test_no_question_leaves_an_internal_network(lab: Lab, upstream: Upstream) -> None:
    lab.stack.ensure_network(SECRET, internal=True)
    hidden, peer = lab.sandbox("hidden", SECRET), lab.sandbox("peer", SECRET)
    assert addresses(ask(hidden, "peer")) == [peer.address]
    for n in range(20):
        for kind in ("A", "AAAA", "TXT", "PTR"):
            assert ask(hidden, f"x{n}.exfiltrated.example", kind, tcp=n % 2 == 0).header.rcode == NX_DOMAIN
    assert upstream.asked == []


def test_hostile_packets_change_nothing(lab: Lab) -> None:
    web = lab.sandbox("web-1", APP)
    rng = random.Random(7)
    good = bytes(dnslib.DNSRecord.question("web-1").pack())
    hostile = [rng.randbytes(rng.randrange(0, 600)) for _ in range(200)]
    hostile += [good[:cut] for cut in range(len(good))]
    hostile += [good[:12] + b"\xc0\x0c" + good[14:], good[:12] + b"\x3f" * 300, good[:4] + b"\xff\xff" + good[6:]]
    sender = web.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sender:
        for packet in hostile:
            sender.sendto(packet, (web.dns, 53))
    for packet in (b"", b"\0", b"\xff\xff" + b"x" * 100, b"\0\0", b"\0\5hello"):
        stream = web.run(lambda: socket.create_connection((web.dns, 53), 3))
        stream.sendall(packet)
        stream.close()
    assert addresses(ask(web, "web-1")) == [web.address]
    assert addresses(ask(web, "web-1", tcp=True)) == [web.address]


def test_names_go_with_their_containers(lab: Lab) -> None:
    web, _ = lab.sandbox("web-1", APP), lab.sandbox("db-1", APP)
    lab.stack.detach("db-1")
    assert addresses(ask(web, "db-1")) == ["192.0.2.7"]


def test_names_are_there_again_after_a_restart(lab: Lab) -> None:
    web, db, dead = (lab.sandbox(name, APP) for name in ("web-1", "db-1", "dead-1"))
    lab.stack.set_service_names(APP, {"db": (db.address, dead.address)})
    lab.restart(["web-1", "db-1"])
    assert addresses(ask(web, "db")) == [db.address]
    assert addresses(ask(web, "db-1")) == [db.address]

"""The name server as a process: whoever dies, questions are answered, and nothing is left when it is not needed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import dnslib
import pytest
from agents import eventually
from networklab import Lab, Sandboxed, addresses, resolve

from agent.errors import HoldfastError
from agent.network import nameconnection
from agent.network.nameserver.protocol import SOCKET_NAME

pytestmark = pytest.mark.host
APP, OTHER = "shop_default", "blog_default"
PAUSE_SECONDS = 0.02


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    lab.stack.recover([])
    lab.stack.ensure_network(APP)
    yield lab
    lab.end()
    assert traces(lab.root) == ([], [])


def server_pid(lab: Lab) -> int:
    path = lab.root / "names.pid"
    return int(path.read_text()) if path.exists() else 0


def traces(root: Path) -> tuple[list[str], list[str]]:
    """Processes and files of name servers."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes()
        except OSError:
            continue
        if b"agent.network.nameserver" in command and f"'{root}'".encode() in command:
            found.append(entry.parent.name)
    return found, sorted(path.name for path in root.glob("names*"))


class Asker:
    """A container that asks for a name all the time, and never a second time for an answer that did not come."""

    def __init__(self, host: Sandboxed, name: str) -> None:
        self.answers: list[list[str]] = []
        self.failures: list[str] = []
        self._ended = threading.Event()
        self._name, self._server = name, host.dns
        self._socket = host.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._socket.settimeout(30)
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._ended.wait(PAUSE_SECONDS):
            question = dnslib.DNSRecord.question(self._name)
            try:
                self._socket.sendto(question.pack(), (self._server, 53))
                reply = dnslib.DNSRecord.parse(self._socket.recv(4096))
            except OSError as error:
                self.failures.append(repr(error))
                continue
            if reply.header.id == question.header.id and reply.rr:
                self.answers.append(addresses(reply))
            else:
                self.failures.append(str(reply))

    def wait(self, more: int) -> None:
        """Until so many more questions have been answered."""
        wanted = len(self.answers) + more
        eventually(lambda: len(self.answers) >= wanted or self.failures, what="answers")

    def __enter__(self) -> Asker:
        self._thread.start()
        self.wait(2)
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()
        assert self.failures == []


def ask(host: Sandboxed, name: str, *, tcp: bool = False) -> list[str]:
    return host.run(lambda: addresses(resolve(host.dns, name, tcp=tcp)))


def test_killed_name_server_comes_again_and_no_question_is_lost(lab: Lab) -> None:
    web, db = lab.sandbox("web-1", APP), lab.sandbox("db-1", APP)
    lab.stack.set_service_names(APP, {"db": (db.address,)})
    with Asker(web, "db") as asker:
        for _ in range(3):
            first = server_pid(lab)
            os.kill(first, signal.SIGKILL)
            asker.wait(5)
            assert server_pid(lab) not in (0, first)
        lab.stack.set_service_names(APP, {"db": (web.address,)})
        assert ask(web, "db", tcp=True) == [web.address]
        assert ask(web, "db-1") == [db.address]


def test_names_are_answered_without_an_agent_and_the_next_one_goes_on(lab: Lab) -> None:
    web, db = lab.sandbox("web-1", APP), lab.sandbox("db-1", APP)
    lab.stack.set_service_names(APP, {"db": (db.address,)})
    with Asker(web, "db") as asker:
        server = server_pid(lab)
        lab.stop()
        asker.wait(5)
        assert ask(web, "db-1", tcp=True) == [db.address]
        lab.start()
        lab.stack.recover(["web-1", "db-1"])
        assert server_pid(lab) == server
        lab.stack.set_service_names(APP, {"db": (web.address,)})
        assert ask(web, "db") == [web.address]
        os.kill(server, signal.SIGKILL)
        asker.wait(5)
    lab.stack.ensure_network(OTHER)
    stranger = lab.sandbox("stranger", OTHER)
    assert ask(stranger, "stranger") == [stranger.address]


def test_what_ended_while_no_agent_was_there_has_no_name_any_more(lab: Lab) -> None:
    web, _ = lab.sandbox("web-1", APP), lab.sandbox("db-1", APP)
    lab.stack.ensure_network(OTHER)
    lab.restart(["web-1"])
    assert ask(web, "db-1") == []
    assert ask(web, "web-1") == [web.address]


def test_name_server_of_another_version_is_replaced_without_a_lost_question(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = lab.sandbox("web-1", APP)
    with Asker(web, "web-1") as asker:
        server = server_pid(lab)
        lab.stop()
        monkeypatch.setattr(nameconnection, "__version__", "another")
        lab.start()
        lab.stack.recover(["web-1"])
        asker.wait(5)
        eventually(lambda: server_pid(lab) not in (0, server), what="a new name server")
        eventually(lambda: not Path(f"/proc/{server}").exists(), what="the old one gone")
    os.kill(server_pid(lab), signal.SIGKILL)
    assert ask(web, "web-1") == [web.address]


def test_question_that_was_passed_on_is_answered_by_the_server_that_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream:
        upstream.bind(("127.0.0.1", 0))
        lab = Lab(tmp_path, upstreams=(upstream.getsockname(),))
        lab.stack.recover([])
        lab.stack.ensure_network(APP)
        web = lab.sandbox("web-1", APP)
        with web.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
            client.settimeout(30)
            question = dnslib.DNSRecord.question("example.com")
            client.sendto(question.pack(), (web.dns, 53))
            packet, passer = upstream.recvfrom(4096)
            server = server_pid(lab)
            lab.stop()
            monkeypatch.setattr(nameconnection, "__version__", "another")
            lab.start()
            lab.stack.recover(["web-1"])
            assert ask(web, "web-1") == [web.address]
            assert server_pid(lab) != server
            reply = dnslib.DNSRecord.parse(packet).reply()
            reply.add_answer(dnslib.RR("example.com", rdata=dnslib.A("192.0.2.7")))
            upstream.sendto(reply.pack(), passer)
            answer = dnslib.DNSRecord.parse(client.recv(4096))
            assert (answer.header.id, addresses(answer)) == (question.header.id, ["192.0.2.7"])
        eventually(lambda: not Path(f"/proc/{server}").exists(), what="the old one gone")
        lab.end()


def test_name_server_that_hangs_is_replaced_by_the_next_agent(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    web = lab.sandbox("web-1", APP)
    assert ask(web, "web-1") == [web.address]
    server = server_pid(lab)
    lab.stop()
    os.kill(server, signal.SIGSTOP)
    monkeypatch.setattr(nameconnection, "PATIENCE_SECONDS", 1.0)
    lab.start()
    lab.stack.recover(["web-1"])
    assert ask(web, "web-1") == [web.address]
    assert server_pid(lab) != server


def test_every_new_container_knows_itself_and_the_others_at_once(lab: Lab) -> None:
    known = [lab.sandbox("first", APP)]
    for number in range(20):
        if number % 5 == 4:
            os.kill(eventually(lambda: server_pid(lab), what="a name server"), signal.SIGKILL)
        host = lab.sandbox(f"web-{number}", APP)
        assert ask(host, f"web-{number}") == [host.address]
        assert ask(host, known[-1].name) == [known[-1].address]
        known.append(host)
        lab.stack.detach(known.pop(0).name)
        assert ask(host, f"web-{number - 1}" if number else "first") == []


def test_it_ends_with_the_last_network_and_begins_with_the_next(lab: Lab) -> None:
    lab.stack.ensure_network(OTHER)
    assert eventually(lambda: server_pid(lab), what="a name server")
    lab.stack.remove_network(APP)
    assert server_pid(lab)
    lab.stack.remove_network(OTHER)
    assert traces(lab.root) == ([], [])
    for _ in range(3):
        lab.stack.ensure_network(APP)
        lab.stack.remove_network(APP)
        assert traces(lab.root) == ([], [])
    lab.stack.ensure_network(APP)
    web = lab.sandbox("web-1", APP)
    assert ask(web, "web-1") == [web.address]


def test_it_has_no_rights_and_one_thread(lab: Lab) -> None:
    pid = eventually(lambda: server_pid(lab), what="a name server")
    web = lab.sandbox("web-1", APP)
    assert ask(web, "web-1") == [web.address]
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (status["NoNewPrivs"].strip(), status["Threads"].strip()) == ("1", "1")
    assert os.getsid(pid) != os.getsid(0)
    assert int(status["VmRSS"].split()[0]) < 16 << 10


def test_junk_from_beside_the_agent_ends_its_own_connection_only(lab: Lab) -> None:
    web = lab.sandbox("web-1", APP)
    assert ask(web, "web-1") == [web.address]
    for packet in (b"\0", b"[]", b"{}", b'{"do":"commit"}', b'{"do":"change","changes":[["x"]]}', b'{"do":1}'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stream:
            stream.connect(str(lab.root / SOCKET_NAME))
            stream.settimeout(30)
            stream.send(packet)
            try:
                assert stream.recv(100) == b""
            except ConnectionResetError:
                pass
    assert ask(web, "web-1") == [web.address]
    complaints = lab.root / "names.log"
    assert complaints.read_text().count("makes no sense") == 6
    complaints.unlink()


def test_port_that_somebody_else_has_is_told_and_taken_when_it_is_free(lab: Lab) -> None:
    web = lab.sandbox("web-1", APP)
    gateway = web.dns
    lab.stop()
    os.kill(server_pid(lab), signal.SIGKILL)
    eventually(lambda: not traces(lab.root)[0], what="its end")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rival:

        def binds() -> bool:  # the dead one's sockets are closed after its command line is gone
            with contextlib.suppress(OSError):
                rival.bind((gateway, 53))
            return rival.getsockname()[1] == 53

        eventually(binds, what="the port")
        lab.start()
        lab.stack.recover(["web-1"])
        assert f"no name server on {gateway}:53: Address already in use" in lab.stack.names_fault
        with pytest.raises(HoldfastError, match="no name server"):
            lab.stack.ensure_network(APP)
    lab.stack.ensure_network(APP)
    assert lab.stack.names_fault == ""
    assert ask(web, "web-1") == [web.address]


def test_python_that_does_not_start_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    web = lab.sandbox("web-1", APP)
    assert ask(web, "web-1") == [web.address]
    told = threading.Event()
    lab.stack.watch_names(told.set)
    monkeypatch.setattr("agent.network.namespawn._BOOT", "raise SystemExit(3)")
    os.kill(server_pid(lab), signal.SIGKILL)
    assert told.wait(60)
    assert "names are not answered: the name server cannot be started" in lab.stack.names_fault
    told.clear()
    monkeypatch.undo()
    assert told.wait(60)
    assert lab.stack.names_fault == ""
    assert ask(web, "web-1") == [web.address]

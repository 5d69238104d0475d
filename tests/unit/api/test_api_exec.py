from __future__ import annotations

import json
import os
import resource
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_agent import FakeAgent
from test_api_streams import until

from agent.api.framing import (
    STDIN_WINDOW,
    UPGRADE,
    BrokenFrame,
    Channel,
    FrameDecoder,
    encode_frame,
    encode_resize,
)
from agent.api.threads import GATE_WORKERS


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    with FakeAgent() as running:
        running.add("shop-web-1")
        yield running


class Peer:
    """A client by hand, to do what the real one never does."""

    def __init__(self, agent: FakeAgent, *command: str, **document: Any) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(agent.socket))
        body = json.dumps({"target": "shop-web-1", "command": command, **document}).encode()
        self.socket.sendall(
            f"POST /holdfast/v1/exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n"):
            self.head += self.socket.recv(1)
        self.decoder = FrameDecoder()

    def frames(self) -> Iterator[tuple[Channel, bytes]]:
        while data := self.socket.recv(1 << 16):
            yield from self.decoder.feed(data)

    def collect(self) -> dict[Channel, bytes]:
        found: dict[Channel, bytes] = {}
        for channel, payload in self.frames():
            found[channel] = found.get(channel, b"") + payload
        self.socket.close()
        return found

    def send(self, channel: Channel, payload: bytes = b"") -> None:
        self.socket.sendall(encode_frame(channel, payload))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def all_dead(agent: FakeAgent) -> bool:
    return all(process.poll() is not None for process in agent.engine.execs.processes.values())


def test_output_errors_and_exit_code(agent: FakeAgent) -> None:
    found = Peer(agent, "sh", "-c", "echo out; echo err >&2; exit 7").collect()
    assert found[Channel.STDOUT] == b"out\n"
    assert found[Channel.STDERR] == b"err\n"
    assert json.loads(found[Channel.EXIT]) == {"code": 7, "signal": None, "oom": False}


def test_stdin_reaches_the_process_and_ends(agent: FakeAgent) -> None:
    peer = Peer(agent, "cat", stdin=True)
    peer.send(Channel.STDIN, b"hello")
    peer.send(Channel.STDIN)
    found = peer.collect()
    assert found[Channel.STDOUT] == b"hello"
    assert sum(struct.unpack(f">{len(found[Channel.CREDIT]) // 4}I", found[Channel.CREDIT])) == 5


def test_megabytes_both_ways_arrive_whole(agent: FakeAgent) -> None:
    data = os.urandom(1 << 20) * 8
    peer = Peer(agent, "cat", stdin=True)
    received = bytearray()
    credit = threading.Semaphore(STDIN_WINDOW >> 15)

    def write() -> None:
        for start in range(0, len(data), 1 << 15):
            credit.acquire()
            peer.send(Channel.STDIN, data[start : start + (1 << 15)])
        peer.send(Channel.STDIN)

    writer = threading.Thread(target=write)
    writer.start()
    given = 0
    for channel, payload in peer.frames():
        if channel is Channel.STDOUT:
            received += payload
        elif channel is Channel.CREDIT:
            given += struct.unpack(">I", payload)[0]
            while given >= 1 << 15:
                given -= 1 << 15
                credit.release()
    writer.join()
    assert bytes(received) == data


def test_client_that_overruns_the_window_is_cut_off(agent: FakeAgent) -> None:
    peer = Peer(agent, "sleep", "1000", stdin=True)
    for _ in range(STDIN_WINDOW // (64 << 10) + 2):
        peer.send(Channel.STDIN, b"x" * (64 << 10))
    assert b"BrokenFrame" in peer.collect()[Channel.ERROR]
    until(lambda: all_dead(agent))


@pytest.mark.parametrize(
    "garbage",
    [b"\xff" * 64, struct.pack(">BI", 0, 1 << 30), encode_frame(Channel.STDOUT, b"x"), encode_frame(Channel.SIGNAL)],
)
def test_garbage_ends_the_stream_and_the_process(agent: FakeAgent, garbage: bytes) -> None:
    peer = Peer(agent, "sleep", "1000", stdin=True)
    peer.socket.sendall(garbage)
    assert b"BrokenFrame" in peer.collect()[Channel.ERROR]
    until(lambda: all_dead(agent))


def test_signal_and_resize_reach_the_process(agent: FakeAgent) -> None:
    peer = Peer(agent, "sleep", "1000", terminal=True, stdin=True, rows=10, columns=20)
    assert (agent.engine.execs.options[0].rows, agent.engine.execs.options[0].columns) == (10, 20)
    peer.socket.sendall(encode_resize(40, 100))
    until(lambda: agent.engine.execs.sizes == [(40, 100)])
    peer.send(Channel.SIGNAL, bytes([signal.SIGTERM]))
    assert json.loads(peer.collect()[Channel.EXIT])["signal"] == signal.SIGTERM


def test_terminal_echoes_and_ends(agent: FakeAgent) -> None:
    peer = Peer(agent, "sh", "-c", "read a; echo got $a; test -t 0 && echo terminal", terminal=True, stdin=True)
    peer.send(Channel.STDIN, b"word\r")
    found = peer.collect()
    assert b"got word" in found[Channel.STDOUT]
    assert b"terminal" in found[Channel.STDOUT]
    assert json.loads(found[Channel.EXIT])["code"] == 0


def test_background_child_with_the_pipe_does_not_hold_the_exit(agent: FakeAgent, tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    found = Peer(agent, "sh", "-c", f"sleep 1000 & echo $! > {pidfile}; echo done").collect()
    assert found[Channel.STDOUT] == b"done\n"
    os.kill(int(pidfile.read_text()), signal.SIGKILL)


def test_output_before_the_exit_is_complete(agent: FakeAgent) -> None:
    found = Peer(agent, "sh", "-c", "head -c 3000000 /dev/zero").collect()
    assert len(found[Channel.STDOUT]) == 3_000_000
    assert list(found)[-1] is Channel.EXIT


def test_disconnect_kills_the_process(agent: FakeAgent) -> None:
    peer = Peer(agent, "sleep", "1000")
    peer.socket.close()
    until(lambda: agent.engine.execs.processes and all_dead(agent))


def test_disconnect_is_seen_while_stdin_is_stuck(agent: FakeAgent) -> None:
    peer = Peer(agent, "sleep", "1000", stdin=True)
    for _ in range(4):
        peer.send(Channel.STDIN, b"x" * (64 << 10))
    peer.socket.close()
    until(lambda: all_dead(agent))


def test_failure_before_the_start_is_plain_http(agent: FakeAgent) -> None:
    peer = Peer(agent, "absent")
    assert peer.head.startswith(b"HTTP/1.1 404")
    peer.socket.close()
    agent.stop_container("shop-web-1")
    peer = Peer(agent, "true")
    assert peer.head.startswith(b"HTTP/1.1 409")
    peer.socket.close()


def test_endless_output_without_a_reader_is_held_back(agent: FakeAgent) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peer = Peer(agent, "sh", "-c", "head -c 1073741824 /dev/zero; exec sleep 1000")
    written: list[int] = []

    def stuck() -> bool:
        children = Path(f"/proc/{agent.engine.execs.processes['0'].pid}/task").glob("*/children")
        head = next(children).read_text().split()
        written.append(int(Path(f"/proc/{head[0]}/io").read_text().split("wchar: ")[1].split()[0]) if head else 0)
        return len(written) > 10 and written[-1] == written[-10] > 0

    until(stuck)
    assert written[-1] < 8 << 20
    other = Peer(agent, "echo", "alive").collect()
    assert other[Channel.STDOUT] == b"alive\n"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    peer.socket.close()
    until(lambda: all_dead(agent))


def test_many_disconnects_leave_nothing(agent: FakeAgent) -> None:
    """Attack row 35: attach, perhaps say something, leave without a word. The real engine meets two thousand."""
    Peer(agent, "true").collect()
    before, threads = descriptors(), threading.active_count()
    for number in range(600):
        peer = Peer(agent, "cat", stdin=True)
        if number % 3 == 1:
            peer.send(Channel.STDIN, b"x")
        if number % 3 == 2:
            peer.socket.sendall(b"\x00\x00")
        peer.socket.close()
    until(lambda: all_dead(agent))
    until(lambda: descriptors() <= before)
    until(lambda: threading.active_count() <= threads + GATE_WORKERS)


def test_frames_survive_any_cut() -> None:
    stream = b"".join(encode_frame(channel, bytes([channel]) * channel * 10) for channel in Channel)
    for size in (1, 2, 5, 7, 1000):
        decoder = FrameDecoder()
        frames = [f for start in range(0, len(stream), size) for f in decoder.feed(stream[start : start + size])]
        assert frames == [(channel, bytes([channel]) * channel * 10) for channel in Channel]
    with pytest.raises(BrokenFrame):
        FrameDecoder().feed(b"\x63\x00\x00\x00\x00")

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from fake_agent import FakeAgent, Line

from agent.api.threads import STREAM_LIMIT
from agent.cli.client import AgentError, Client
from agent.engine.model import ContainerEvent
from agent.telemetry.events import QUEUE_LIMIT


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    with FakeAgent() as running:
        yield running


def until(probe: Callable[[], object]) -> None:
    """Waits for something that only another thread's counter shows."""
    deadline = time.monotonic() + 60
    while not probe():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


def test_events_past_and_to_come(agent: FakeAgent) -> None:
    agent.events.record("container", app="shop", reason="Started", message="one")
    stream = Client(agent.host).stream("GET", "/events", follow=True, tail=10)
    assert next(stream)["message"] == "one"
    agent.events.record("container", app="shop", reason="Exited", message="two")
    assert next(stream)["message"] == "two"
    stream.close()
    until(lambda: not agent.events._readers)


def test_slow_event_reader_is_dropped_and_told(agent: FakeAgent) -> None:
    agent.events.record("agent", message="first")
    stream = Client(agent.host).stream("GET", "/events", follow=True, tail=1)
    assert next(stream)["message"] == "first"

    def flood() -> None:
        for number in range(QUEUE_LIMIT + 1):
            agent.events.record("agent", message=str(number))

    agent.loop.call_soon_threadsafe(flood)
    with pytest.raises(AgentError) as caught:
        list(stream)
    assert caught.value.reason == "SlowReader"
    until(lambda: not agent.events._readers)


def test_logs_of_replicas_are_merged_by_time(agent: FakeAgent) -> None:
    one, two = agent.add("shop-web-1", slot=1), agent.add("shop-web-2", slot=2)
    agent.engine.containers.lines[one.id] = [Line(1, 1.0, b"a\n"), Line(2, 3.0, b"c\n")]
    agent.engine.containers.lines[two.id] = [Line(1, 2.0, b"b\n"), Line(1, 4.0, b"\xff\x00d")]
    head, *lines = Client(agent.host).stream("GET", "/logs", target="web")
    assert head == {"targets": ["shop-web-1", "shop-web-2"]}
    assert [line["text"][0] for line in lines[:3]] == ["a", "b", "c"]
    assert (lines[3]["text"], lines[3]["bytes"]) == ("\ufffd\x00d", "/wBk")
    assert "bytes" not in lines[2]
    assert [line["stream"] for line in lines] == ["stdout", "stdout", "stderr", "stdout"]


def test_tail_counts_for_each_container(agent: FakeAgent) -> None:
    for slot in (1, 2):
        record = agent.add(f"shop-web-{slot}", slot=slot)
        agent.engine.containers.lines[record.id] = [Line(1, float(n), b"%d\n" % n) for n in range(9)]
    lines = list(Client(agent.host).stream("GET", "/logs", target="shop/web", tail=2))[1:]
    assert [line["text"] for line in lines] == ["7\n", "7\n", "8\n", "8\n"]


def test_same_service_in_two_apps_is_ambiguous(agent: FakeAgent) -> None:
    agent.add("a-web-1", app="a")
    agent.add("b-web-1", app="b")
    with pytest.raises(AgentError) as caught:
        list(Client(agent.host).stream("GET", "/logs", target="web"))
    assert caught.value.reason == "Ambiguous"
    assert "a/web" in (caught.value.hint or "")


def test_followed_service_brings_its_new_replicas(agent: FakeAgent) -> None:
    one = agent.add("shop-web-1", slot=1)
    agent.engine.containers.lines[one.id] = [Line(1, 1.0, b"old\n")]
    stream = Client(agent.host).stream("GET", "/logs", target="web", follow=True)
    assert next(stream) == {"targets": ["shop-web-1"]}
    assert next(stream)["text"] == "old\n"
    two = agent.add("shop-web-2", slot=2)
    agent.engine.containers.lines[two.id] = [Line(1, 998.0, b"of its predecessor\n"), Line(1, 1000.0, b"new\n")]
    agent.engine.announce(ContainerEvent("started", two.id, 1000.0))
    line = next(stream)
    assert (line["container"], line["text"]) == ("shop-web-2", "new\n")
    stream.close()
    until(lambda: agent.engine.containers.readers == 0)


def test_followed_container_ends_the_stream_with_it(agent: FakeAgent) -> None:
    record = agent.add("shop-web-1")
    agent.engine.containers.lines[record.id] = [Line(1, 1.0, b"x\n")]
    stream = Client(agent.host).stream("GET", "/logs", target="shop-web-1", follow=True)
    assert next(stream) == {"targets": ["shop-web-1"]}
    next(stream)
    agent.engine.containers.live[record.id].put(None)
    assert list(stream) == []


def test_follower_that_does_not_read_holds_nothing_but_itself(agent: FakeAgent) -> None:
    """1 GiB of log, a client that reads nothing: the producer waits; everything else goes on."""
    record = agent.add("shop-web-1")
    produced = 0

    def endless(*_: object, **__: object) -> Iterator[Line]:
        nonlocal produced
        for number in range(1 << 14):
            produced += 1
            yield Line(1, float(number), b"x" * (64 << 10))

    agent.engine.containers.logs = endless  # type: ignore[method-assign, assignment]
    stream = Client(agent.host).stream("GET", "/logs", target="shop-web-1", follow=True)
    next(stream)
    seen: list[int] = []

    def stuck() -> bool:
        seen.append(produced)
        return len(seen) > 10 and seen[-1] == seen[-10] > 0

    until(stuck)
    assert Client(agent.host).get("/version")
    assert produced * (64 << 10) < 16 << 20
    stream.close()
    assert record.id
    assert agent.server is not None
    until(lambda: agent.server._threads.streams == 0)  # type: ignore[union-attr]


def test_too_many_streams_are_refused(agent: FakeAgent) -> None:
    agent.add("shop-web-1")
    streams = [Client(agent.host).stream("GET", "/logs", target="shop-web-1", follow=True) for _ in range(STREAM_LIMIT)]
    for stream in streams:
        next(stream)
    until(lambda: agent.engine.containers.readers == STREAM_LIMIT)
    with pytest.raises(AgentError) as caught:
        list(Client(agent.host).stream("GET", "/logs", target="shop-web-1", follow=True))
    assert caught.value.reason == "TooManyStreams"
    for stream in streams:
        stream.close()
    until(lambda: agent.engine.containers.readers == 0)


def test_pull_reports_and_ends_with_the_image(agent: FakeAgent) -> None:
    first, last = Client(agent.host).stream("POST", "/pull", {"reference": "shop/web:1"})
    assert first["progress"]["bytes_done"] == 50
    assert last["image"]["names"] == ["shop/web:1"]


def test_leaving_a_pull_cancels_it(agent: FakeAgent) -> None:
    agent.engine.images.endless = True
    stream = Client(agent.host).stream("POST", "/pull", {"reference": "x"})
    next(stream)
    stream.close()
    assert agent.engine.images.cancelled.wait(60)


def test_leaving_status_wait_ends_the_wait(agent: FakeAgent) -> None:
    agent.controller.apps = [{"name": "a", "conditions": [], "services": []}]
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(agent.socket))
        peer.sendall(b"GET /holdfast/v1/status?wait=600 HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: agent.controller.waiting == 1)
    until(lambda: agent.controller.waiting == 0)
    agent.controller.told.set()  # the thread that the fake waits in


def test_thousand_disconnects_leave_no_descriptor(agent: FakeAgent) -> None:
    agent.add("shop-web-1")
    list(Client(agent.host).stream("GET", "/events"))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(1000):
        agent.events.record("agent", message="x")
        stream = Client(agent.host).stream("GET", "/events", follow=True, tail=1)
        next(stream)
        stream.close()
    until(lambda: not agent.events._readers)
    until(lambda: len(os.listdir("/proc/self/fd")) <= before)  # noqa: PTH208

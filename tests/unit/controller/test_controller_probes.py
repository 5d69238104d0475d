"""Probes: what their results mean, what they ask of a hostile server, and what the loop makes of them."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from loop_bench import Bench, make_app, running

from agent.controller.health.answers import Answers
from agent.controller.health.commandcheck import CommandChecks
from agent.controller.health.probecalls import HEADER_BYTES, encode_request
from agent.controller.health.probeplan import Kind, ProbeRecord, Streak, adopt, begin, count, judge, merge, resume
from agent.controller.health.probes import ProbeRunner
from agent.controller.inventory import HealthReading
from agent.engine.model import ContainerConfig, ContainerRecord, ContainerState
from agent.errors import Waiting
from agent.plan.observed import Health
from agent.spec.model import HttpCheck, Probe, Probes

FAST = {"period": 0.01, "timeout": 30}
COMMAND = {"command": ("true",), **FAST}
ALL = Probes(readiness=Probe(), liveness=Probe(), startup=Probe())


def on_bench(test: Callable[[Bench], Awaitable[None]]) -> Callable[[Path], None]:
    @functools.wraps(test)
    def run(tmp_path: Path) -> None:
        async def whole() -> None:
            async with running(tmp_path) as bench:
                await test(bench)

        asyncio.run(whole())

    run.__annotations__ = {"tmp_path": Path, "return": None}
    del run.__wrapped__  # type: ignore[attr-defined]
    return run


def test_a_threshold_counts_results_in_a_row() -> None:
    probe, streak, counted = Probe(failure_threshold=3, success_threshold=2), Streak(), []
    for passed in (False, False, True, False, False, False, True, True):
        streak, counts = count(probe, streak, passed)
        counted.append(counts)
    assert counted == [False, False, False, False, False, True, False, True]


def test_startup_comes_before_the_two_others() -> None:
    record = begin(ALL)
    assert (record.status, record.accepting) == (Health.STARTING, False)
    record = judge(record, Kind.STARTUP, True, 5.0, "")
    assert (record.started, record.status, record.accepting) == (True, Health.STARTING, False)
    record = judge(record, Kind.READINESS, True, 6.0, "")
    assert record.reading == HealthReading(Health.HEALTHY, 6.0, True)


def test_a_container_that_is_not_ready_is_healthy_yet_and_one_that_fails_is_not() -> None:
    ready = judge(judge(begin(ALL), Kind.STARTUP, True, 1.0, ""), Kind.READINESS, True, 2.0, "")
    busy = judge(ready, Kind.READINESS, False, 3.0, "status 503")
    assert busy.reading == HealthReading(Health.HEALTHY, 2.0, False)
    dead = judge(busy, Kind.LIVENESS, False, 4.0, "no result")
    assert dead.status is Health.UNHEALTHY
    assert judge(dead, Kind.READINESS, True, 5.0, "").status is Health.UNHEALTHY
    assert judge(dead, Kind.LIVENESS, True, 5.0, "").status is Health.HEALTHY
    assert judge(begin(ALL), Kind.STARTUP, False, 1.0, "x").status is Health.UNHEALTHY


def test_liveness_alone_says_nothing_before_its_first_result() -> None:
    record = begin(Probes(liveness=Probe()))
    assert record.reading == HealthReading(Health.NONE, 0.0, True)
    assert judge(record, Kind.LIVENESS, True, 7.0, "").reading == HealthReading(Health.HEALTHY, 7.0, True)


def test_new_probes_take_nothing_out_of_traffic_before_they_have_decided() -> None:
    assert adopt(ProbeRecord(), ALL).accepting
    assert not adopt(ProbeRecord(ready=False), ALL).accepting
    assert adopt(ProbeRecord(ready=False), Probes(liveness=Probe())).accepting
    left = ProbeRecord(started=False, ready=False, failing="liveness")
    assert resume(left, Probes(readiness=Probe())) == ProbeRecord(ready=False)
    assert resume(left, ALL) == left


def test_the_worse_of_healthcheck_and_probes_counts() -> None:
    healthy, starting = HealthReading(Health.HEALTHY, 5.0), HealthReading(Health.STARTING)
    assert merge(healthy, HealthReading(Health.HEALTHY, 9.0, False)) == HealthReading(Health.HEALTHY, 9.0, False)
    assert merge(healthy, starting) == starting
    assert merge(starting, HealthReading(Health.UNHEALTHY)).status is Health.UNHEALTHY
    assert merge(HealthReading(), healthy) == healthy


def test_a_request_says_what_the_file_says() -> None:
    check = HttpCheck(port=80, path="/up", host="shop.example", headers=(("X-A", "b"), ("accept", "")))
    assert encode_request("10.0.0.2", check) == (
        b"GET /up HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: holdfast-probe\r\nX-A: b\r\nConnection: close\r\n\r\n"
    )
    assert b"Host: 10.0.0.2:80\r\n" in encode_request("10.0.0.2", HttpCheck(port=80))


FLOOD = b"x" * (4 << 20)
ANSWERS = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True, "status 200: ok"),
    (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", True, "status 302"),
    (b"HTTP/1.0 399 \r\n\r\n", True, "status 399"),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 None\r\n\r\n", True, "status 204"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True, "status 200: 2 ok 0"),
    (b"HTTP/1.1 200 OK\r\n\r\n" + FLOOD, True, "status 200: xxx"),
    (b"HTTP/1.1 400 Bad\r\n\r\nno\nbread", False, "status 400: no bread"),
    (b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\nbusy", False, "ended too early"),
    (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * HEADER_BYTES, False, "too long"),
    (b"HTTP/1.1 100 Continue\r\n\r\n" * 100, False, "no answer after all interim ones"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", False, "bad Content-Length"),
    (b"SSH-2.0-x\r\n\r\n", False, "not HTTP/1.1"),
    (b"", False, "closed without an answer"),
    (None, False, "no result in 0.5 s"),
]


async def ask(check: dict[str, Any], address: str = "127.0.0.1") -> tuple[bool, str]:
    record = ContainerRecord("0" * 64, ContainerConfig("a", "b"), ContainerState.RUNNING, ip=address)
    nothing: Any = None
    runner = ProbeRunner(CommandChecks(nothing, nothing), nothing, lambda: 0.0, nothing, Answers(nothing))
    return await runner._ask(record, Probe.model_validate({"timeout": 30, **check}))


@pytest.mark.parametrize(("answer", "passed", "said"), ANSWERS)
def test_an_answer_is_bounded_in_bytes_and_time(answer: bytes | None, passed: bool, said: str) -> None:
    taken = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read()
        for start in range(0, len(answer or b""), 1 << 16):
            writer.write((answer or b"")[start : start + (1 << 16)])
            try:
                await writer.drain()
            except ConnectionError:
                break
            taken += 1 << 16
        writer.close()

    async def whole() -> tuple[bool, str]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            seconds = 30 if answer is not None else 0.5
            result = await ask({"http": {"port": server.sockets[0].getsockname()[1]}, "timeout": seconds})
            server.close()
        return result

    result = asyncio.run(whole())
    assert result[0] is passed
    assert said in result[1]
    assert len(result[1]) < 400
    assert taken < len(FLOOD)


def test_a_port_that_nobody_listens_on_fails_and_one_that_is_passes() -> None:
    async def whole() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        assert await ask({"tcp": {"port": port}}) == (True, "")
        assert (await ask({"tcp": {"port": port}}, address=""))[0] is False
        server.close()
        await server.wait_closed()
        passed, said = await ask({"tcp": {"port": port}})
        assert (passed, "refused" in said) == (False, True)

    asyncio.run(whole())


def app(probes: dict[str, Any], **more: Any) -> Any:
    ports = [{"host_ip": "127.0.0.1", "published": 8080, "target": 80, "protocol": "tcp"}]
    return make_app(services={"web": {"probes": probes, "ports": ports, **more}})


def backends(bench: Bench) -> tuple[tuple[str, int], ...]:
    return next((port.backends for port in bench.engine.networks.published if port.host_port == 8080), ())


@on_bench
async def test_readiness_gates_traffic_and_never_replaces(bench: Bench) -> None:
    bench.engine.verdicts["shop-web-1"] = 1
    bench.source.put(app({"readiness": COMMAND}))
    await bench.until(lambda: bench.names() == ["shop-web-1"])
    first = bench.engine.containers.named("shop-web-1").id
    assert backends(bench) == ()
    bench.engine.verdicts["shop-web-1"] = 0
    await bench.until(lambda: backends(bench) and bench.controller.converged)
    bench.engine.verdicts["shop-web-1"] = 1
    await bench.until(lambda: not backends(bench))
    (row,) = bench.controller.containers()
    assert (row["id"], row["health"], row["accepting"]) == (first, "healthy", False)
    bench.engine.verdicts["shop-web-1"] = 0
    await bench.until(lambda: backends(bench) and bench.controller.converged)
    assert bench.engine.containers.calls == ["start shop-web-1"]
    assert [e.reason for e in bench.events.recent() if e.kind == "container" and e.reason in ("Ready", "NotReady")] == [
        "Ready",
        "NotReady",
        "Ready",
    ]


@on_bench
async def test_liveness_replaces_and_tells_the_last_words(bench: Bench) -> None:
    await bench.want(app({"liveness": COMMAND}))
    first = bench.engine.containers.named("shop-web-1").id
    bench.engine.verdicts["shop-web-1"] = 1
    await bench.until(lambda: bench.engine.containers.calls.count("start shop-web-1") > 1)
    bench.engine.verdicts["shop-web-1"] = 0
    await bench.until(lambda: bench.controller.converged and len(bench.engine.containers.list()) == 1)
    assert bench.engine.containers.named("shop-web-1").id != first
    (told, *_) = [event for event in bench.events.recent() if (event.kind, event.reason) == ("container", "Unhealthy")]
    assert "liveness probe" in told.message
    assert "last words of shop-web-1" in told.message


@on_bench
async def test_startup_that_fails_replaces_before_the_others_are_asked(bench: Bench) -> None:
    bench.engine.verdicts["shop-web-1"] = 1
    startup = {**COMMAND, "failure_threshold": 2}
    bench.source.put(app({"startup": startup, "readiness": {"command": ("other",), **FAST}}))
    await bench.until(lambda: "shop-web-1 failed its startup probe" in bench.condition("shop", "Ready")["message"])
    await bench.until(lambda: bench.engine.containers.calls.count("start shop-web-1") > 1)
    assert backends(bench) == ()
    bench.engine.verdicts["shop-web-1"] = 0
    await bench.until(lambda: backends(bench))


@on_bench
async def test_a_change_of_probes_takes_effect_on_what_runs(bench: Bench) -> None:
    await bench.want(app({"readiness": COMMAND}))
    bench.engine.verdicts["shop-web-1"] = 1
    bench.source.put(app({"readiness": {**COMMAND, "failure_threshold": 10**6}}))
    await bench.until(lambda: bench.controller.converged)
    bench.source.put(app({"readiness": COMMAND}))
    await bench.until(lambda: not backends(bench))
    await bench.want(app({}))
    assert backends(bench)
    assert bench.engine.containers.calls == ["start shop-web-1"]


@on_bench
async def test_what_serves_stays_published_while_a_newer_revision_is_prepared(bench: Bench) -> None:
    """Also when it comes before the first one has proved itself."""
    watched = {"update": {"monitor": 60.0}}
    bench.source.put(app({"readiness": COMMAND}, **watched))
    before = await bench.until(lambda: backends(bench))
    bench.engine.images.holdups["example/web:2"] = threading.Event()
    bench.source.put(app({"readiness": COMMAND}, image="example/web:2", **watched))
    await bench.until(lambda: "pull example/web:2 missing" in bench.engine.images.calls)
    worker = bench.controller._workers["shop"]
    passes = worker.passes
    worker.poke()
    await bench.until(lambda: worker.passes > passes and bench.controller._shared.publisher.settled)
    assert backends(bench) == before
    bench.engine.images.holdups["example/web:2"].set()
    await bench.until(lambda: backends(bench) not in ((), before))


@on_bench
async def test_connections_finish_before_the_stop_and_nothing_waits_behind_them(bench: Bench) -> None:
    def serving() -> set[str]:
        return {record.id for record in bench.engine.containers.running()}

    def versions() -> set[str | None]:
        fresh = [record for record in bench.engine.containers.running() if record.id not in old]
        return {record.config.process.environment.get("V") for record in fresh}

    service: dict[str, Any] = {"drain": 60.0, "replicas": 2, "update": {"monitor": 0.0}}
    await bench.want(app({"readiness": COMMAND}, **service))
    old = sorted(serving())
    bench.engine.containers.connections.update(dict.fromkeys(old, 1))
    bench.source.put(app({"readiness": COMMAND}, environment={"V": "2"}, **service))
    await bench.until(lambda: versions() == {"2"} and len(serving()) == 4)
    fresh = {record.ip for record in bench.engine.containers.running() if record.id not in old}
    await bench.until(lambda: {address for address, _ in backends(bench)} == fresh)
    bench.source.put(app({"readiness": COMMAND}, environment={"V": "3"}, **service))
    await bench.until(lambda: versions() == {"3"})
    assert set(old) <= serving()
    bench.engine.containers.connections[old[0]] = 0
    await bench.until(lambda: old[0] not in serving())
    assert old[1] in serving()
    await bench.controller.down()
    assert not serving()


@on_bench
async def test_a_container_that_could_not_be_stopped_is_probed_again(bench: Bench) -> None:
    def stop(container_id: str) -> None:
        raise Waiting("the keeper does not answer", retry_after=60.0)

    await bench.want(app({"readiness": COMMAND}))
    old = bench.engine.containers.named("shop-web-1").id
    bench.engine.containers.stop = stop  # type: ignore[assignment, method-assign]
    bench.source.put(app({"readiness": COMMAND}, image="example/web:2", update={"order": "stop-first"}))
    await bench.until(lambda: "the keeper does not answer" in str(bench.condition("shop", "Ready")))
    bench.engine.verdicts["shop-web-1"] = 1
    await bench.until(lambda: not bench.controller._shared.health.reading(old).accepting)


@on_bench
async def test_what_has_ended_is_neither_healthy_nor_ready(bench: Bench) -> None:
    await bench.want(make_app(services={"web": {"healthcheck": {"test": ["CMD", "true"], "interval": 0.01}}}))
    assert bench.controller.containers()[0]["health"] == "healthy"
    await bench.controller.deploys.pause("shop")
    bench.engine.containers._crash(bench.engine.containers.named("shop-web-1").id)
    (row,) = bench.controller.containers()
    assert (row["state"], row["health"], row["accepting"]) == ("exited", "none", False)

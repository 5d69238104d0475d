"""Why something is as it is can be asked, also of what is gone; what others did to a container is told as theirs."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from deploy_cases import on_bench
from fake_engine import FakeEngine
from loop_bench import Bench, make_app, running

from agent.controller.gate import QUICK_THREADS, Gate
from agent.controller.journal import Journal
from agent.controller.tampering import TamperWatch
from agent.controller.telling.callers import Caller, Callers
from agent.controller.telling.happenings import Happenings
from agent.controller.telling.telling import Teller
from agent.engine.model import ExitStatus, Tampering
from agent.errors import Conflict, NotFound
from agent.store.database import Database
from agent.telemetry.events import EventLog

QUICK = {"monitor": 0.05}


def shop(version: int, **more: Any) -> Any:
    service = {"image": f"example/web:{version}", "update": QUICK, "rollback": QUICK, **more}
    return make_app(services={"web": service}, lines={"web": 12})


def reasons(bench: Bench, beginning: str = "") -> list[str]:
    return [event.reason for event in bench.events.recent() if event.reason.startswith(beginning)]


async def in_force(bench: Bench, app: Any) -> None:
    count = reasons(bench).count("DeploySucceeded")
    await bench.want(app)
    await bench.until(lambda: reasons(bench).count("DeploySucceeded") > count)


def kinds(steps: list[dict[str, Any]]) -> list[str]:
    return [step["kind"] for step in steps]


@on_bench
async def test_a_container_that_is_gone_is_explained_from_file_to_successor(bench: Bench) -> None:
    await in_force(bench, shop(1))
    first = bench.engine.containers.named("shop-web-1").id
    await in_force(bench, shop(2, environment={"MODE": "s3cret-mode"}))
    await bench.until(lambda: [record.id for record in bench.engine.containers.list()] != [first])
    second = bench.engine.containers.named("shop-web-1").id
    await bench.until(lambda: all(record.id != first for record in bench.engine.containers.list()))
    steps = bench.controller.why(first)
    assert {"revision", "plan", "start", "stop", "exit", "replacement", "now"} <= set(kinds(steps))
    assert steps[-1]["text"].endswith("is gone")
    assert [step["at"] for step in steps] == sorted(step["at"] for step in steps)
    steps = bench.controller.why("shop-web-1")
    (revision,) = [step for step in steps if step["kind"] == "revision"]
    assert revision["text"].startswith("revision 2 (")
    assert (revision["details"]["file"], revision["details"]["line"]) == ("shop.yaml", 12)
    changes = {change["path"]: (change["old"], change["new"]) for change in revision["details"]["changes"]}
    assert changes["image"] == ('"example/web:1"', '"example/web:2"')
    assert "s3cret-mode" not in str([event.as_dict() for event in bench.events.recent()])
    assert second[:12] in steps[-1]["text"]
    assert "DeploySucceeded" in [step["details"].get("reason") for step in steps]
    assert bench.controller.why("web")[-1]["text"].startswith("app shop: Ready is True")
    assert bench.controller.why("shop/web")[:-1]
    with pytest.raises(NotFound):
        bench.controller.why("nothing")


@on_bench
async def test_a_restart_is_explained_by_how_the_one_before_ended(bench: Bench) -> None:
    await in_force(bench, shop(1))
    first = bench.engine.containers.named("shop-web-1")
    bench.engine.containers.end(first.id, ExitStatus(None, 9, oom=True))
    await bench.until(lambda: bench.names() == ["shop-web-1"])
    steps = bench.controller.why("shop-web-1")
    texts = [step["text"] for step in steps]
    assert any("OutOfMemory: shop-web-1 was killed for want of memory" in text for text in texts)
    assert any(first.id[:12] in text and "for want of memory" in text for text in texts)
    assert not reasons(bench, "Drift")


@on_bench
async def test_what_a_container_said_in_the_end_is_read_before_it_is_removed(bench: Bench) -> None:
    """However long that takes a host that is busy."""
    containers, begun, may_read = bench.engine.containers, threading.Event(), threading.Event()
    read_end = containers.read_end

    def slowly(container_id: str, lines: int) -> str:
        begun.set()
        may_read.wait(60)
        return read_end(container_id, lines)

    await in_force(bench, shop(1))
    containers.read_end = slowly  # type: ignore[method-assign]
    containers.doomed["example/web:2"] = 0.0
    bench.source.put(shop(2))
    await bench.until(begun.is_set)
    for _ in range(20):
        bench.controller._workers["shop"].poke()
        await asyncio.sleep(0.005)
    assert "remove shop-web-1" not in containers.calls
    may_read.set()
    await bench.until(lambda: reasons(bench).count("DeployRolledBack"))
    assert "remove shop-web-1" in containers.calls
    (event,) = [event for event in bench.events.recent() if event.reason == "LastLines"]
    assert "last words of shop-web-1" in event.message


@on_bench
async def test_a_signal_from_elsewhere_is_drift_and_a_crash_is_not(bench: Bench) -> None:
    await in_force(bench, shop(1))
    bench.engine.containers.end(bench.engine.containers.named("shop-web-1").id, ExitStatus(3))
    await bench.until(lambda: bench.names() == ["shop-web-1"])
    assert not reasons(bench, "Drift")
    victim = bench.engine.containers.named("shop-web-1").id
    bench.engine.containers.end(victim, ExitStatus(None, 9))
    await bench.until(lambda: reasons(bench, "Drift") == ["DriftKilled"])
    await bench.until(lambda: bench.names() == ["shop-web-1"])
    assert 'holdfast_drift_found_total{app="shop"}' in bench.metrics_text()
    assert "drift" in kinds(bench.controller.why(victim))
    await in_force(bench, shop(2))
    await bench.until(lambda: len(bench.engine.containers.list()) == 1)
    assert reasons(bench, "Drift") == ["DriftKilled"], "what Holdfast stops itself is no drift"


@on_bench
async def test_who_works_in_a_container_when_it_ends_is_named(bench: Bench) -> None:
    await in_force(bench, shop(1))
    victim = bench.engine.containers.named("shop-web-1").id
    with bench.controller.callers.visit(victim, Caller(1000, 77, "holdfast exec shop-web-1 kill 1"), "kill 1"):
        pass
    bench.engine.containers.end(victim, ExitStatus(143))
    await bench.until(lambda: reasons(bench, "Drift") == ["DriftStopped"])
    (event,) = [event for event in bench.events.recent() if event.reason == "DriftStopped"]
    assert "uid 1000, pid 77 (holdfast exec shop-web-1 kill 1) ran in it: kill 1" in event.message
    assert event.details["who"] == {"uid": 1000, "pid": 77, "command": "holdfast exec shop-web-1 kill 1", "address": ""}


@on_bench
async def test_what_was_removed_from_elsewhere_is_made_again(bench: Bench) -> None:
    await in_force(bench, shop(1))
    victim = bench.engine.containers.named("shop-web-1").id
    bench.engine.containers.drop(victim)
    await bench.until(lambda: reasons(bench, "Drift") == ["DriftRemoved"])
    await bench.until(lambda: bench.names() == ["shop-web-1"])


@on_bench
async def test_a_name_of_two_apps_services_is_asked_back(bench: Bench) -> None:
    await bench.want(shop(1), make_app("bar", services={"web": {}}))
    with pytest.raises(Conflict, match="several apps"):
        bench.controller.why("web")
    with pytest.raises(Conflict, match="beginning"):
        bench.controller.why("0000")


def test_callers_are_forgotten_after_a_moment() -> None:
    now = [0.0]
    callers = Callers(lambda: now[0])
    with callers.visit("c1", Caller(0, 1), "sh"):
        now[0] = 100.0
        assert callers.find("c1") == (Caller(0, 1), "sh")
        assert callers.find("c2") is None
    now[0] = 101.0
    assert callers.find("c1") is not None
    now[0] = 103.0
    assert callers.find("c1") is None


def test_ends_that_nobody_wrote_down_are_caught_up_once(tmp_path: Path) -> None:
    """What a killed agent had not on disk is told by the next one, from the engine's records."""

    async def main() -> None:
        engine = FakeEngine()
        async with running(tmp_path, engine) as bench:
            await in_force(bench, shop(1, restart={"condition": "none"}))
            victim = engine.containers.named("shop-web-1").id
            engine.containers.end(victim, ExitStatus(4))
            await bench.until(lambda: "Exited" in reasons(bench))
        log = EventLog(clock=lambda: engine.containers.get(victim).created)
        log.record("agent", reason="AgentStarted")
        happenings = Happenings(Teller(log), Callers())
        happenings.catch_up(engine.containers.list())
        happenings.catch_up(engine.containers.list())
        told = [(event.reason, event.details.get("id")) for event in log.recent()]
        assert told == [("AgentStarted", None), ("Started", victim), ("Exited", victim)]

    asyncio.run(main())


def test_no_decision_is_on_disk_before_its_event(tmp_path: Path) -> None:
    order: list[str] = []

    class Watched(Database):
        def put_many(self, kind: str, items: Any) -> None:
            order.append(kind)
            super().put_many(kind, items)

    async def main() -> None:
        database = Watched(tmp_path / "db")
        log, gate = EventLog(database), Gate()
        journal = Journal(database, gate, log.flush)
        log.record("app", reason="DeployStarted")
        journal.put("deploy", "shop", {"base": "1"})
        await journal.flush()
        assert order == ["event", "deploy"]
        await gate.close()
        journal.close()
        log.close()
        database.close()

    asyncio.run(main())


@on_bench
async def test_five_failures_in_a_row_are_a_crash_loop_with_its_last_words(bench: Bench) -> None:
    bench.engine.containers.doomed["example/web:1"] = 0.0
    bench.source.put(shop(1))
    await bench.until(lambda: bench.condition("shop", "Ready")["reason"] == "CrashLoop")
    (event,) = await bench.until(lambda: [e for e in bench.events.recent() if e.reason == "CrashLoop"])
    assert "shop-web-1 exited with code 3, 5 times in a row" in event.message
    assert event.details["logs"] == {"shop-web-1": ["last words of shop-web-1"]}
    assert (event.details["condition"], event.details["status"]) == ("Ready", "False")
    assert "crash-loop" in kinds(bench.controller.why("shop"))


@on_bench
async def test_a_container_that_does_not_die_is_reported_and_not_waited_for(bench: Bench) -> None:
    """Its service stops the old one first, another service waits for it: all of the app goes on."""
    first = {"update": {**QUICK, "order": "stop-first"}, "rollback": QUICK}
    after = {"depends_on": {"web": {}}, "update": QUICK, "rollback": QUICK}

    def app(version: int) -> Any:
        web, api = f"example/web:{version}", f"example/api:{version}"
        return make_app(services={"web": {"image": web, **first}, "api": {"image": api, **after}})

    await in_force(bench, app(1))
    old = bench.engine.containers.named("shop-web-1").id
    bench.engine.containers.stubborn.add(old)
    bench.source.put(app(2))
    await bench.until(lambda: "stop shop-web-1" in bench.engine.containers.calls)
    bench.engine.containers.wedge(old, "does not end although killed: process 7 (dd) is in uninterruptible sleep (D)")
    await bench.until(lambda: reasons(bench).count("DeploySucceeded") == 2)
    images = sorted(record.config.image_name for record in bench.engine.containers.running())
    assert images == ["example/api:2", "example/web:2"]
    ready = await bench.until(lambda: bench.condition("shop", "Ready"))
    assert (ready["reason"], "uninterruptible sleep (D)" in ready["message"]) == ("ContainerWedged", True)
    assert reasons(bench).count("ContainerWedged") == 2, "the container's event and the condition's"
    assert "remove shop-web-1" not in bench.engine.containers.calls
    bench.engine.containers.end(old, ExitStatus(None, 9))
    assert await bench.controller.wait_converged(60)
    assert not reasons(bench, "Drift")


def test_fifty_services_start_in_order_and_few_at_a_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as bench:
            services = {f"s{n:02}": {"depends_on": {f"s{n % 5:02}": {}} if n >= 5 else {}} for n in range(50)}
            busy, most, lock = 0, 0, threading.Lock()
            make = bench.engine.containers.create_start

            def create_start(config: Any) -> Any:
                nonlocal busy, most
                with lock:
                    busy, most = busy + 1, max(most, busy + 1)
                threading.Event().wait(0.002)
                try:
                    return make(config)
                finally:
                    with lock:
                        busy -= 1

            bench.engine.containers.create_start = create_start  # type: ignore[method-assign]
            bench.source.put(make_app(services=services))
            assert await bench.controller.wait_converged(60), bench.controller.status()
            starts = [call.split("-")[1] for call in bench.engine.containers.calls if call.startswith("start")]
            assert sorted(starts) == sorted(services)
            place = {name: index for index, name in enumerate(starts)}
            for name, service in services.items():
                assert all(place[other] < place[name] for other in service["depends_on"])
            assert 1 < most <= QUICK_THREADS

    asyncio.run(main())


@on_bench
async def test_a_fault_of_the_look_at_limits_does_not_end_it(bench: Bench) -> None:
    await in_force(bench, shop(1, memory=64 << 20, replicas=2))
    looked: list[str] = []

    def put_right(container_id: str) -> None:
        looked.append(bench.engine.containers.get(container_id).name)
        raise ValueError(looked[-1])

    bench.engine.containers.put_right = put_right  # type: ignore[assignment]
    await TamperWatch(bench.controller._shared, bench.controller._claim).look()
    assert sorted(looked) == ["shop-web-1", "shop-web-2"]


@on_bench
async def test_limits_that_others_change_are_put_right_and_lost_cgroups_replaced(bench: Bench) -> None:
    await in_force(bench, shop(1, memory=64 << 20))
    victim = bench.engine.containers.named("shop-web-1").id
    watch = TamperWatch(bench.controller._shared, bench.controller._claim)
    await watch.look()
    bench.engine.containers.tampered[victim] = Tampering("memory.max is max, not 67108864")
    await watch.look()
    bench.engine.containers.tampered[victim] = Tampering("its processes were taken out", lost=True)
    await watch.look()
    await bench.until(lambda: bench.names() == ["shop-web-1"])
    assert reasons(bench, "Drift") == ["DriftLimitsChanged", "DriftCgroupLost"]
    assert bench.engine.containers.named("shop-web-1").id != victim

"""The loop across restarts of the agent and across `down`, on an engine in memory."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from deploy_cases import count, in_force, on_bench, shop
from fake_engine import FakeEngine, image_id
from loop_bench import Bench, make_app, running
from memory_source import Files, Revision

from agent.controller.deploy.deploys import KIND as DEPLOY_KIND
from agent.controller.deploy.revisions import KIND as REVISION_KIND
from agent.engine.model import ExitStatus
from agent.errors import Problem, Waiting
from agent.telemetry.events import APP_GONE


@pytest.mark.parametrize("suspended", [False, True])
def test_restart_of_the_agent_changes_nothing(tmp_path: Path, suspended: bool) -> None:
    engine = FakeEngine()
    check = {"test": ["CMD", "true"], "interval": 0.01}
    app = make_app(services={"web": {"healthcheck": check, "pull_policy": "always"}})

    async def first() -> None:
        async with running(tmp_path, engine) as bench:
            await bench.want(app)
            if suspended:
                await bench.controller.down()

    async def second() -> None:
        async with running(tmp_path, engine) as bench:
            engine.containers.calls.clear()
            engine.images.calls.clear()
            bench.source.put(app)
            await bench.until(lambda: bench.controller.synced)
            assert bench.controller.status()["suspended"] is suspended
            assert engine.containers.calls == []
            assert engine.images.calls == []
            if not suspended:
                assert bench.controller.containers()[0]["health"] == "healthy"

    asyncio.run(first())
    asyncio.run(second())


def test_last_good_app_survives_a_restart_with_a_broken_file(tmp_path: Path) -> None:
    engine = FakeEngine()

    async def first() -> None:
        async with running(tmp_path, engine) as bench:
            await bench.want(make_app())

    async def second() -> None:
        async with running(tmp_path, engine) as bench:
            bench.source.put(Files("shop", "broken", None, (Problem("shop.yaml", 1, 1, "nonsense"),)))
            await bench.until(lambda: bench.condition("shop", "Ready")["reason"] == "InvalidSpec")
            victim = engine.containers.named("shop-web-1")
            engine.containers.end(victim.id, ExitStatus(1))
            await bench.until(lambda: bench.names() == ["shop-web-1"])

    asyncio.run(first())
    asyncio.run(second())


def test_app_removed_while_the_agent_was_away_is_pruned(tmp_path: Path) -> None:
    engine = FakeEngine()

    async def first() -> None:
        async with running(tmp_path, engine) as bench:
            await bench.want(make_app(), make_app("other"))

    async def second() -> None:
        async with running(tmp_path, engine) as bench:
            await bench.want(make_app("other"))
            await bench.until(lambda: bench.names() == ["other-web-1"])
            assert engine.networks.names == {"other_default"}

    asyncio.run(first())
    asyncio.run(second())


def test_unchanged_services_cost_no_call(tmp_path: Path) -> None:
    """A reconcile of 500 unchanged services asks the engine for nothing but its list."""
    apps = [make_app(f"app{number}", services={f"s{index}": {} for index in range(10)}) for number in range(50)]

    async def body() -> None:
        async with running(tmp_path) as bench:
            await bench.want(*apps)
            calls = [*bench.engine.containers.calls, *bench.engine.networks.calls, *bench.engine.images.calls]
            await bench.controller.sync()
            after = [*bench.engine.containers.calls, *bench.engine.networks.calls, *bench.engine.images.calls]
            assert len(bench.names()) == 500
            assert after == calls

    asyncio.run(body())


def test_agent_that_ends_in_mid_start_leaves_nothing_doubled(tmp_path: Path) -> None:
    engine = FakeEngine()
    app = make_app(services={"web": {"replicas": 4}})
    gates = {f"shop-web-{slot}": threading.Event() for slot in (2, 3)}
    engine.containers.holdups.update(gates)

    async def first() -> None:
        async with running(tmp_path, engine) as bench:
            bench.source.put(app)
            await bench.until(lambda: bench.names() == ["shop-web-1", "shop-web-4"])
            asyncio.get_running_loop().call_later(0.05, lambda: [gate.set() for gate in gates.values()])

    async def second() -> None:
        async with running(tmp_path, engine) as bench:
            await bench.want(app)
            assert bench.names() == [f"shop-web-{slot}" for slot in (1, 2, 3, 4)]
            assert engine.containers.calls.count("start shop-web-2") == 1

    asyncio.run(first())
    asyncio.run(second())


def test_a_sync_that_changes_nothing_tells_nothing(tmp_path: Path) -> None:
    """Images are looked at again; the app stays ready meanwhile, though not converged before that is done."""
    service = {"build": {"context": "/src", "dockerfile": "Dockerfile", "args": {}, "additional_contexts": {}}}

    async def body() -> None:
        async with running(tmp_path) as bench:
            await bench.want(make_app(services={"web": service, "tagged": {"pull_policy": "always"}}))
            before, since = len(bench.events.recent()), bench.condition("shop", "Ready")["since"]
            held = threading.Event()
            bench.engine.images.holdups["example/tagged:1"] = held
            await bench.controller.sync()
            assert bench.condition("shop", "Ready")["status"] == "True"
            assert bench.condition("shop", "Reconciling")["status"] == "True"
            assert not bench.controller.converged
            held.set()
            assert await bench.controller.wait_converged(60)
            assert bench.condition("shop", "Ready")["since"] == since
            assert not bench.events.recent()[before:]

    asyncio.run(body())


def test_down_before_the_first_revision_is_read_stays_down(tmp_path: Path) -> None:
    engine, app = FakeEngine(), make_app(services={"web": {"replicas": 2}})

    async def first() -> None:
        async with running(tmp_path, engine) as bench:
            await bench.want(app)

    async def second() -> None:
        async with running(tmp_path, engine) as bench:
            bench.source.put(app)
            await bench.controller.down()
            await bench.until(lambda: bench.condition("shop", "Ready")["reason"] == "Suspended")
            assert bench.names() == []
            assert engine.containers.calls.count("start shop-web-1") == 1
            await bench.want(make_app(services={"web": {"replicas": 3}}))
            assert len(bench.names()) == 3

    asyncio.run(first())
    asyncio.run(second())


def test_services_may_want_one_image_for_two_platforms(tmp_path: Path) -> None:
    engine = FakeEngine()
    app = make_app(services={"web": {}, "arm": {"image": "example/web:1", "platform": "linux/arm64"}})
    remote = {"example/web:1": image_id("ours"), "example/web:1@linux/arm64": image_id("other")}
    engine.images.remote.update(remote)

    async def run(calls: list[str]) -> None:
        engine.images.calls.clear()
        async with running(tmp_path, engine) as bench:
            await bench.want(app)
            assert sorted(engine.images.calls) == calls
            assert engine.containers.named("shop-web-1").config.image == image_id("ours")
            assert engine.containers.named("shop-arm-1").config.image == image_id("other")

    asyncio.run(run([f"pull {reference} missing" for reference in remote]))
    asyncio.run(run([]))


def test_what_apps_need_is_known_for_the_last_good_version_too(tmp_path: Path) -> None:
    """Nothing is said before the desired state was read; then also what a broken app needs, after a restart as well."""
    engine = FakeEngine()
    app = make_app(services={"web": {"image": "example/web:1"}}, images=[{"reference": "example/kept:2"}])
    names = {"example/web:1", "example/kept:2"}

    async def use(*apps: Any) -> frozenset[str] | None:
        async with running(tmp_path, engine) as bench:
            assert bench.controller.needed_images() is None
            bench.source.put(*apps)
            await bench.until(lambda: bench.controller.synced)
            await bench.until(lambda: not apps or names <= engine.images.local.keys())
            return bench.controller.needed_images()

    asyncio.run(use(app))
    broken = Files("shop", "broken", None, (Problem("shop.yaml", 1, 1, "broken"),))
    assert asyncio.run(use(broken)) == names | {engine.images.local[name] for name in names}
    assert asyncio.run(use()) == frozenset()


@on_bench
async def test_a_change_while_down_is_under_way_is_taken_down_too(bench: Bench) -> None:
    await bench.want(make_app())
    begun, may_end, down = threading.Event(), threading.Event(), bench.engine.down

    def slowly() -> None:
        begun.set()
        may_end.wait(60)
        down()

    bench.engine.down = slowly  # type: ignore[method-assign]
    task = asyncio.create_task(bench.controller.down())
    await bench.until(begun.is_set)
    bench.source.put(make_app(), make_app("other"))
    await bench.controller.look()
    assert "start other-web-1" not in bench.engine.containers.calls
    may_end.set()
    await task
    assert bench.names() == []
    assert bench.condition("other", "Ready")["reason"] in ("", "Suspended")
    await bench.controller.sync()
    assert await bench.controller.wait_converged(60)
    assert bench.names() == ["other-web-1", "shop-web-1"]


@pytest.mark.parametrize("changed", [False, True])
def test_down_that_was_killed_is_seen_through_by_the_next_agent(tmp_path: Path, changed: bool) -> None:
    engine = FakeEngine()

    async def first() -> None:
        async with running(tmp_path, engine) as bench:
            await bench.want(make_app(services={"a": {}, "b": {}}))
            bench.database.put("agent", "suspended", {"revision": bench.controller.status()["revision"]})

    async def second() -> None:
        async with running(tmp_path, engine) as bench:
            bench.source.revision = Revision("0", {})
            bench.source.put(make_app(services={"a": {}, **({} if changed else {"b": {}})}))
            if changed:
                bench.source.put(make_app(services={"a": {}}))
                assert await bench.controller.wait_converged(60)
                assert bench.names() == ["shop-a-1"]
                assert "stop shop-a-1" not in engine.containers.calls
                return
            await bench.until(lambda: not bench.names())
            await bench.until(lambda: bench.condition("shop", "Ready")["reason"] == "Suspended")
            await bench.controller.sync()
            assert await bench.controller.wait_converged(60)

    asyncio.run(first())
    asyncio.run(second())


@pytest.mark.parametrize("moment", ["rolling", "over"])
def test_on_another_host_there_is_nothing_to_go_back_to_without_its_images(tmp_path: Path, moment: str) -> None:
    """A deploy that goes on there is like a first one; what was taken back still waits for what was in force."""
    engine, other = FakeEngine(), FakeEngine()
    engine.containers.doomed["example/web:2"] = other.containers.doomed["example/web:2"] = 0.0

    async def begin() -> None:
        async with running(tmp_path, engine) as bench:
            await in_force(bench, shop(1))
            if moment == "rolling":
                engine.containers.holdups["shop-web-1"] = threading.Event()
            bench.source.put(shop(2))
            begun, over = {"rolling": (2, 0), "over": (2, 1)}[moment]
            await bench.until(lambda: count(bench, "DeployStarted") == begun)
            await bench.until(lambda: count(bench, "DeployRolledBack") == over)
            await bench.controller._shared.journal.flush()
            for holdup in engine.containers.holdups.values():
                bench.controller._apps.close()
                holdup.set()

    async def go_on() -> None:
        async with running(tmp_path, other) as bench:
            bench.source.put(shop(2))
            if moment == "over":
                await bench.until(lambda: bench.condition("shop", "Stalled")["reason"] == "ImageLost")
                assert other.containers.calls == []
                return
            await bench.until(lambda: other.containers.calls.count("start shop-web-1") > 1)
            assert [row["status"] for row in bench.controller.deploys.history("shop")] == ["good", "deploying"]
            assert (count(bench, "DeployBaseLost"), count(bench, "ImageLost")) == (1, 0)
            await in_force(bench, shop(3))
            assert [row["in_force"] for row in bench.controller.deploys.history("shop")] == [False, False, True]

    asyncio.run(begin())
    asyncio.run(go_on())


def test_an_app_that_went_while_no_agent_was_there_is_forgotten(tmp_path: Path) -> None:
    """Also one of which no container was ever there: its first image cannot be had."""
    engine = FakeEngine()
    engine.images.pull_failures["example/web:1"] = Waiting("nobody answers", retry_after=600)
    kinds = (DEPLOY_KIND, REVISION_KIND)

    async def first() -> None:
        async with running(tmp_path, engine) as bench:
            await in_force(bench, shop(1, name="blog", image="example/blog:1"))
            bench.source.put(shop(1), shop(1, name="blog", image="example/blog:1"))
            await bench.until(lambda: bench.condition("shop", "Ready")["status"] == "False")
            await bench.controller.deploys.pause("shop")
            bench.source.put(shop(1))
            await bench.until(lambda: [e.app for e in bench.events.recent() if e.reason == APP_GONE] == ["blog"])

    async def second() -> None:
        async with running(tmp_path, engine) as bench:
            assert [*bench.database.all(DEPLOY_KIND)] == ["shop"]
            bench.source.put()
            await bench.until(lambda: [e.app for e in bench.events.recent() if e.reason == APP_GONE] == ["shop"])
            await bench.until(lambda: not any(bench.database.all(kind) for kind in kinds))

    asyncio.run(first())
    asyncio.run(second())

"""A revision is a transaction: in force as a whole when it has proved itself, or not at all, and the reason is told."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from deploy_cases import on_bench
from fake_engine import FakeEngine
from loop_bench import Bench, make_app, running

from agent.errors import NotFound

QUICK = {"monitor": 0.05}


def service(version: int, *, name: str = "web", **more: Any) -> dict[str, Any]:
    return {"image": f"example/{name}:{version}", "update": QUICK, "rollback": QUICK, **more}


def shop(version: int, **more: Any) -> Any:
    return make_app(services={"web": service(version, **more)})


def images(bench: Bench) -> list[str]:
    return sorted(record.config.image_name for record in bench.engine.containers.running())


def reasons(bench: Bench) -> list[str]:
    return [event.reason for event in bench.events.recent() if event.reason.startswith("Deploy")]


async def in_force(bench: Bench, *apps: Any) -> None:
    """Deploy, and wait until that is final."""
    await bench.want(*apps)
    await bench.until(lambda: reasons(bench)[-1:] == ["DeploySucceeded"])


@on_bench
async def test_a_good_revision_replaces_every_container_and_is_final(bench: Bench) -> None:
    await in_force(bench, shop(1, replicas=3))
    await in_force(bench, shop(2, replicas=3))
    assert images(bench) == ["example/web:2"] * 3
    assert reasons(bench) == ["DeployStarted", "DeploySucceeded"] * 2


@on_bench
async def test_a_revision_that_crashes_is_taken_back_and_not_tried_again(bench: Bench) -> None:
    await in_force(bench, shop(1, replicas=3))
    old = {record.id for record in bench.engine.containers.running()}
    bench.engine.containers.doomed["example/web:2"] = 0.0
    bench.source.put(shop(2, replicas=3))
    await bench.until(lambda: reasons(bench)[-1:] == ["DeployRolledBack"])
    await bench.until(lambda: bench.condition("shop", "Stalled")["reason"] == "RolledBack")
    await bench.until(lambda: images(bench) == ["example/web:1"] * 3)
    assert {record.id for record in bench.engine.containers.running()} == old, "what ran was left alone"
    assert "shop-web-1 exited with code 3" in bench.condition("shop", "Stalled")["message"]
    starts = bench.engine.containers.calls.count("start shop-web-1")
    await bench.controller.sync()
    async with asyncio.timeout(10):
        assert not await bench.controller.wait_converged(600), "nobody waits for what only people can mend"
    assert bench.engine.containers.calls.count("start shop-web-1") == starts
    await in_force(bench, shop(3, replicas=3))
    assert images(bench) == ["example/web:3"] * 3


@on_bench
async def test_a_revision_that_fails_while_it_is_watched_is_taken_back_whole(bench: Bench) -> None:
    """The other changed service goes back too, the one that nobody changed is not touched."""
    steady = service(1, name="db")
    first = {"web": service(1), "api": service(1, name="api"), "db": steady}
    await in_force(bench, make_app(services=first))
    database = bench.engine.containers.named("shop-db-1").id
    check = {"test": ("CMD", "true"), "interval": 0.01}  # arrived when it is healthy, and watched for long after that
    slow = {"update": {"monitor": 600.0}, "healthcheck": check}
    second = {"web": {**service(2), **slow}, "api": {**service(2, name="api"), **slow}, "db": steady}
    bench.source.put(make_app(services=second))
    await bench.until(lambda: images(bench) == ["example/api:2", "example/db:1", "example/web:2"])
    await bench.until(lambda: "watched until" in bench.condition("shop", "Ready")["message"])
    bench.engine.containers._crash(bench.engine.containers.named("shop-web-1").id)
    await bench.until(lambda: reasons(bench)[-1:] == ["DeployRolledBack"])
    await bench.until(lambda: images(bench) == ["example/api:1", "example/db:1", "example/web:1"])
    assert bench.engine.containers.named("shop-db-1").id == database


@on_bench
async def test_nothing_changes_before_all_images_are_there(bench: Bench) -> None:
    await in_force(bench, make_app(services={"web": service(1), "api": service(1, name="api")}))
    before = {record.id for record in bench.engine.containers.running()}
    bench.engine.images.failures["example/api:2"] = NotFound("no such image", reason="ImageNotFound")
    bench.source.put(make_app(services={"web": service(2), "api": service(2, name="api")}))
    await bench.until(lambda: bench.condition("shop", "Ready")["reason"] == "ImageNotFound")
    await bench.until(lambda: "example/web:2" in bench.engine.images.local)
    assert {record.id for record in bench.engine.containers.running()} == before
    bench.engine.images.failures.clear()
    await bench.controller.sync()
    assert await bench.controller.wait_converged(60)
    assert images(bench) == ["example/api:2", "example/web:2"]


@on_bench
async def test_a_newer_revision_comes_before_one_that_cannot_get_healthy(bench: Bench) -> None:
    check = {"healthcheck": {"test": ("CMD", "true"), "interval": 60.0}}
    await in_force(bench, shop(1))
    bench.source.put(shop(2, **check))
    await bench.until(lambda: "example/web:2" in images(bench))
    await in_force(bench, shop(3))
    assert images(bench) == ["example/web:3"]
    assert reasons(bench).count("DeployStarted") == 3


@on_bench
async def test_a_deploy_that_stops_first_is_not_converged_before_it_is_final(bench: Bench) -> None:
    await in_force(bench, shop(1))
    await bench.want(shop(2, update={"monitor": 0.3, "order": "stop-first"}))
    assert reasons(bench)[-1] == "DeploySucceeded"
    assert images(bench) == ["example/web:2"]


@on_bench
async def test_a_first_revision_is_not_converged_before_it_is_final(bench: Bench) -> None:
    """Conditions, and all who wait, say the same."""
    bench.source.put(shop(1, update={"monitor": 0.3}))
    await bench.until(lambda: "is in place and watched until" in bench.condition("shop", "Ready")["message"])
    assert (bench.condition("shop", "Ready")["status"], bench.controller.converged) == ("False", False)
    assert bench.condition("shop", "Reconciling")["status"] == "True"
    assert [hold["reason"] for hold in bench.controller.pending_plan()["apps"][0]["holds"]] == ["Baking"]
    assert reasons(bench) == ["DeployStarted"]
    assert await bench.controller.wait_converged(60)
    assert bench.controller.status()["network"] == ""
    assert reasons(bench) == ["DeployStarted", "DeploySucceeded"]


@on_bench
async def test_what_down_stops_is_no_failure_of_a_deploy(bench: Bench) -> None:
    await in_force(bench, shop(1, replicas=3))
    bench.source.put(shop(2, replicas=3, update={"monitor": 0.3, "parallelism": 2}))
    await bench.until(lambda: "example/web:2" in images(bench))
    await bench.controller.down()
    await bench.until(lambda: not bench.names())
    await bench.controller.sync()
    assert await bench.controller.wait_converged(60), bench.condition("shop", "Ready")
    assert images(bench) == ["example/web:2"] * 3
    assert "DeployFailed" not in reasons(bench)


@on_bench
async def test_services_that_are_gone_stay_until_the_revision_is_final(bench: Bench) -> None:
    await in_force(bench, make_app(services={"web": service(1), "old": service(1, name="old")}))
    bench.engine.containers.doomed["example/web:2"] = 0.0
    bench.source.put(shop(2))
    await bench.until(lambda: reasons(bench)[-1:] == ["DeployRolledBack"])
    assert "stop shop-old-1" not in bench.engine.containers.calls
    await in_force(bench, shop(3))
    await bench.until(lambda: images(bench) == ["example/web:3"])


@on_bench
async def test_a_paused_rollout_keeps_what_is_there_until_something_changes(bench: Bench) -> None:
    pausing = {**QUICK, "failure_action": "pause"}
    await in_force(bench, shop(1, replicas=3))
    bench.engine.containers.doomed["example/web:2"] = 0.0
    bench.source.put(make_app(services={"web": {**service(2, replicas=3), "update": pausing}}))
    await bench.until(lambda: bench.condition("shop", "Stalled")["reason"] == "RolloutPaused")
    assert images(bench).count("example/web:1") == 3
    await in_force(bench, shop(3, replicas=3))


class Once(dict[str, float]):
    """Each image is doomed for its first container only."""

    def __getitem__(self, image: str) -> float:
        return self.pop(image)


@on_bench
async def test_failures_up_to_the_ratio_do_not_stop_a_rollout(bench: Bench) -> None:
    """One of four replicas may fail once; it is started again, and that one stays."""
    await in_force(bench, shop(1, replicas=4))
    tolerant = {**QUICK, "max_failure_ratio": 0.25}
    bench.engine.containers.doomed = Once({"example/web:2": 0.0})
    bench.source.put(make_app(services={"web": {**service(2, replicas=4), "update": tolerant}}))
    await bench.until(
        lambda: reasons(bench)[-1:] == ["DeploySucceeded"] and reasons(bench).count("DeploySucceeded") == 2
    )
    assert images(bench) == ["example/web:2"] * 4
    assert sum(call.startswith("start ") for call in bench.engine.containers.calls) == 4 + 4 + 1


@on_bench
async def test_the_first_revision_has_nothing_to_go_back_to(bench: Bench) -> None:
    bench.engine.containers.doomed["example/web:1"] = 0.2
    bench.source.put(shop(1))
    await bench.until(lambda: bench.engine.containers.calls.count("start shop-web-1") >= 1)
    bench.engine.containers.doomed.clear()
    await bench.until(lambda: bench.engine.containers.calls.count("start shop-web-1") >= 2)
    assert await bench.controller.wait_converged(60), "two failures in a row are watched for 10 s"
    await bench.until(lambda: reasons(bench) == ["DeployStarted", "DeploySucceeded"])


@on_bench
async def test_a_first_revision_that_is_still_watched_is_something_to_go_back_to(bench: Bench) -> None:
    slow = {"update": {"monitor": 60.0}}
    bench.source.put(make_app(services={"web": {**service(1), **slow}}))
    assert await bench.controller.wait_in_place(20) and not bench.controller.converged
    assert "is in place and watched until" in bench.condition("shop", "Reconciling")["message"]
    bench.engine.containers.doomed["example/web:2"] = 0.0
    bench.source.put(shop(2))
    await bench.until(lambda: reasons(bench)[-1:] == ["DeployRolledBack"])
    assert images(bench) == ["example/web:1"]
    assert reasons(bench)[1] == "DeploySucceeded"


@on_bench
async def test_a_first_revision_is_final_though_its_tag_is_looked_up_again_and_again(bench: Bench) -> None:
    """Each look at the registry once began the time anew that the revision is watched for: it never ended."""
    often = {"pull_policy": "every_1s", "update": {"monitor": 1.2}}
    bench.source.put(make_app(services={"web": {"image": "example/web:1", **often}}))
    assert await bench.controller.wait_converged(60), bench.controller.status()


@pytest.mark.parametrize("fate", ["good", "bad"])
def test_an_agent_that_comes_back_goes_on_with_the_deploy(tmp_path: Path, fate: str) -> None:
    engine = FakeEngine()

    async def begin() -> None:
        async with running(tmp_path, engine) as bench:
            await in_force(bench, shop(1, replicas=2))
            engine.containers.holdups["shop-web-2"] = threading.Event()
            bench.source.put(shop(2, replicas=2))
            await bench.until(lambda: "example/web:2" in images(bench))
            engine.containers.holdups.pop("shop-web-2").set()

    async def go_on() -> None:
        if fate == "bad":
            engine.containers.doomed["example/web:2"] = 0.0
            for record in engine.containers.running():
                if record.config.image_name == "example/web:2":
                    engine.containers._crash(record.id)
        async with running(tmp_path, engine) as bench:
            bench.source.put(shop(2, replicas=2))
            end = "DeploySucceeded" if fate == "good" else "DeployRolledBack"
            await bench.until(lambda: reasons(bench)[-1:] == [end])
            await bench.until(lambda: images(bench) == [f"example/web:{2 if fate == 'good' else 1}"] * 2)
            assert "DeployStarted" not in reasons(bench)

    asyncio.run(begin())
    asyncio.run(go_on())

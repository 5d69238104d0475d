"""What people can say about deploys: history, diff, rollback, pause, resume, retry, approval."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from deploy_cases import QUICK, count, images, in_force, on_bench, ready_reason, shop
from fake_engine import FakeEngine
from loop_bench import Bench, make_app, running

from agent.controller.deploy.approvals import KEPT, Approvals
from agent.errors import Conflict, NotFound


@on_bench
async def test_history_names_what_each_revision_changed_and_how_it_ended(bench: Bench) -> None:
    await in_force(bench, shop(1))
    bench.engine.containers.doomed["example/web:2"] = 0.0
    bench.source.put(shop(2))
    await bench.until(lambda: count(bench, "DeployRolledBack"))
    await in_force(bench, shop(3, replicas=2))
    one, two, three = bench.controller.deploys.history("shop")
    assert [row["status"] for row in (one, two, three)] == ["good", "rolled-back", "good"]
    assert [row["changed"] for row in (one, two, three)] == [["+web"], ["web"], ["web"]]
    assert "exited with code 3" in two["message"]
    assert [row["in_force"] for row in (one, two, three)] == [False, False, True]
    assert bench.controller.deploys.history(None)[0]["app"] == "shop"
    with pytest.raises(NotFound, match="no app web"):
        bench.controller.deploys.history("web")


@on_bench
async def test_diff_shows_fields_and_images_and_hides_secrets(bench: Bench) -> None:
    hidden = {"environment": {"PASSWORD": "hunter2", "COLOUR": "red"}}
    await in_force(bench, shop(1, **hidden))
    hidden = {"environment": {"PASSWORD": "swordfish", "COLOUR": "blue"}}
    ports = [{"published": 8080, "target": 80}]
    await in_force(bench, shop(2, **hidden, ports=ports))
    found = bench.controller.deploys.diff("1", "2")
    assert "hunter2" not in str(found)
    assert "swordfish" not in str(found)
    changes = {change["path"]: (change["old"], change["new"]) for change in found["changes"]}
    assert changes["environment.PASSWORD"] == ("***", "***")
    assert changes["environment.COLOUR"] == ('"red"', '"blue"')
    assert changes["image"] == ('"example/web:1"', '"example/web:2"')
    assert {"image_id", "ports"} <= changes.keys()
    assert bench.controller.deploys.diff("1", "1")["changes"] == []
    back = bench.controller.deploys.diff("shop/1", None)
    assert (back["old"]["number"], back["new"]["number"]) == (2, 1)
    short = found["new"]["id"][7:15]
    assert bench.controller.deploys.diff(short, None)["changes"] == []


@on_bench
async def test_a_revision_of_several_apps_has_to_be_named_with_its_app(bench: Bench) -> None:
    await in_force(bench, shop(1), shop(1, name="blog"))
    with pytest.raises(Conflict, match="blog/1, shop/1"):
        bench.controller.deploys.diff("1", None)
    with pytest.raises(Conflict, match="blog"):
        bench.controller.deploys.diff("shop/1", "blog/1")
    with pytest.raises(NotFound, match="99"):
        bench.controller.deploys.diff("shop/99", None)
    with pytest.raises(Conflict, match="say which app"):
        await bench.controller.deploys.rollback(None, None)
    with pytest.raises(NotFound, match="no app and no revision shpo"):
        await bench.controller.deploys.rollback("shpo", None)


@on_bench
async def test_rollback_pins_the_good_revision_before_until_resume(bench: Bench) -> None:
    for version in (1, 2, 3):
        await in_force(bench, shop(version))
    commands = bench.controller.deploys
    assert (await commands.rollback(None, None))["revision"]["number"] == 2
    assert (await commands.wait_settled("shop", 60))["settled"]
    assert images(bench) == ["2"]
    assert "holdfast resume" in await ready_reason(bench, "Pinned")
    bench.source.put(shop(4))
    await bench.until(lambda: bench.controller.status()["apps"][0]["generation"] == 4)
    assert images(bench) == ["2"], "what is pinned stays, whatever the files say"
    assert (await commands.rollback("shop", None))["revision"]["number"] == 1, "once more goes further back"
    await bench.until(lambda: images(bench) == ["1"])
    await commands.wait_settled("shop", 60)
    assert next(row for row in commands.history("shop") if row["pinned"])["in_force"]
    assert await commands.resume(None) == {"resumed": ["shop"]}
    await bench.until(lambda: images(bench) == ["4"])
    assert await bench.controller.wait_converged(60)
    assert await commands.resume("shop") == {"resumed": []}


@on_bench
async def test_many_quick_edits_leave_a_good_revision_to_go_back_to(bench: Bench) -> None:
    await in_force(bench, shop(1))
    await in_force(bench, shop(2))
    bench.engine.containers.holdups["shop-web-1"] = hold = threading.Event()
    for version in range(10, 22):
        bench.source.put(shop(version))
        await bench.until(lambda version=version: f"example/web:{version}" in bench.engine.images.local)
        await bench.until(lambda: bench.controller.deploys.history("shop")[-1]["status"] == "deploying")
    hold.set()
    assert await bench.controller.wait_converged(60)
    found = await bench.controller.deploys.rollback("shop", None)
    assert found["revision"]["number"] == 2


@on_bench
async def test_rollback_without_its_image_changes_nothing(bench: Bench) -> None:
    await in_force(bench, shop(1))
    with pytest.raises(NotFound, match="no good revision before"):
        await bench.controller.deploys.rollback("shop", None)
    await in_force(bench, shop(2))
    del bench.engine.images.local["example/web:1"]
    with pytest.raises(Conflict, match="example/web:1") as caught:
        await bench.controller.deploys.rollback("shop", "1")
    assert caught.value.reason == "ImageLost"
    assert await bench.controller.wait_converged(60)
    assert images(bench) == ["2"]


@on_bench
async def test_rollback_in_the_middle_of_a_deploy_takes_it_back(bench: Bench) -> None:
    check = {"healthcheck": {"test": ("CMD", "true"), "interval": 60.0}}
    await in_force(bench, shop(1))
    bench.source.put(shop(2, **check))
    await bench.until(lambda: "2" in images(bench))
    await bench.controller.deploys.rollback("shop", None)
    await bench.until(lambda: images(bench) == ["1"])
    assert bench.controller.deploys.history("shop")[-1]["status"] == "superseded"


@on_bench
async def test_nothing_is_done_to_a_paused_app(bench: Bench) -> None:
    await in_force(bench, shop(1))
    commands = bench.controller.deploys
    assert await commands.pause("shop") == {"paused": ["shop"]}
    bench.source.put(shop(2))
    bench.engine.containers._crash(bench.engine.containers.named("shop-web-1").id)
    await ready_reason(bench, "Paused")
    await bench.until(lambda: not images(bench))
    with pytest.raises(Conflict, match="paused"):
        await commands.rollback("shop", "1")
    calls = [call for call in bench.engine.containers.calls if call != "start shop-web-1"]
    assert calls == []
    assert await commands.resume("shop") == {"resumed": ["shop"]}
    await bench.until(lambda: images(bench) == ["2"])
    assert await bench.controller.wait_converged(60)


@on_bench
async def test_a_paused_service_is_left_alone_and_the_others_are_not(bench: Bench) -> None:
    services = {"web": {"update": QUICK}, "db": {"update": QUICK}}
    await in_force(bench, make_app(services=services))
    commands = bench.controller.deploys
    with pytest.raises(NotFound, match="no service nothing"):
        await commands.pause("shop/nothing")
    assert await commands.pause("shop/web") == {"paused": ["shop/web"]}
    for name in ("shop-web-1", "shop-db-1"):
        bench.engine.containers._crash(bench.engine.containers.named(name).id)
    await bench.until(lambda: bench.names() == ["shop-db-1"])
    assert "holdfast resume shop/web" in await ready_reason(bench, "Paused")
    assert await commands.resume("shop/web") == {"resumed": ["shop/web"]}
    await bench.until(lambda: bench.names() == ["shop-db-1", "shop-web-1"])


def test_what_people_said_outlives_the_agent(tmp_path: Path) -> None:
    engine = FakeEngine()

    async def first() -> None:
        async with running(tmp_path, engine) as bench:
            await in_force(bench, shop(1), shop(1, name="blog"))
            await in_force(bench, shop(2), shop(1, name="blog"))
            await bench.controller.deploys.rollback("shop", None)
            await bench.controller.deploys.pause("blog")

    async def second() -> None:
        async with running(tmp_path, engine) as bench:
            bench.source.put(shop(2), shop(2, name="blog"))
            await bench.until(lambda: images(bench) == ["1"])
            await ready_reason(bench, "Pinned")
            await ready_reason(bench, "Paused", "blog")
            assert images(bench, "blog") == ["1"]
            await bench.controller.deploys.resume(None, everything=True)
            assert await bench.controller.wait_converged(60)
            assert images(bench) == images(bench, "blog") == ["2"]

    asyncio.run(first())
    asyncio.run(second())


@on_bench
async def test_resume_goes_on_with_a_rollout_that_failures_paused(bench: Bench) -> None:
    pausing = {**QUICK, "failure_action": "pause"}
    await in_force(bench, shop(1))
    bench.engine.containers.doomed["example/web:2"] = 0.0
    bench.source.put(shop(2, update=pausing))
    said = await ready_reason(bench, "RolloutPaused")
    assert "revision 2 (" in said
    assert "holdfast resume shop goes on, holdfast rollback shop goes back" in said
    assert bench.controller.status()["apps"][0]["deploy"]["stage"] == "paused"
    bench.engine.containers.doomed.clear()
    assert await bench.controller.deploys.resume("shop") == {"resumed": ["shop"]}
    await bench.until(lambda: images(bench) == ["2"])
    assert await bench.controller.wait_converged(60)


@on_bench
async def test_retry_tries_a_revision_that_was_taken_back(bench: Bench) -> None:
    await in_force(bench, shop(1))
    bench.engine.containers.doomed["example/web:2"] = 0.0
    bench.source.put(shop(2))
    await ready_reason(bench, "RolledBack")
    assert bench.controller.deploys.history("shop")[-1]["quarantined"]
    with pytest.raises(Conflict, match="holdfast retry"):
        await bench.controller.deploys.rollback("shop", "2")
    bench.engine.containers.doomed.clear()
    assert await bench.controller.deploys.retry(None) == {"retried": ["shop"]}
    await bench.until(lambda: images(bench) == ["2"])
    assert await bench.controller.wait_converged(60)
    assert await bench.controller.deploys.retry("shop") == {"retried": []}


@on_bench
async def test_a_manual_app_waits_for_the_approval_of_exactly_its_plan(bench: Bench) -> None:
    manual = {"apply": "manual"}
    commands = bench.controller.deploys
    bench.source.put(shop(1, deploys=manual))
    await ready_reason(bench, "ApprovalNeeded")
    assert images(bench) == []
    first = bench.controller.pending_plan()
    assert bench.controller.pending_plan()["hash"] == first["hash"]
    bench.source.put(shop(2, deploys=manual))
    await bench.until(lambda: "example/web:2" in bench.engine.images.local)
    await ready_reason(bench, "ApprovalNeeded")
    with pytest.raises(Conflict, match="with another image and spec: StartContainer shop-web-1"):
        await commands.approve(first["hash"], bench.controller.pending_plan())
    with pytest.raises(Conflict, match="no plan of this agent"):
        await commands.approve("0123456789abcdef", bench.controller.pending_plan())
    plan = bench.controller.pending_plan()
    name = plan["apps"][0]["hash"]
    assert await commands.approve(name, plan) == {"approved": ["shop"]}
    assert await bench.controller.wait_converged(60)
    assert images(bench) == ["2"]
    assert await commands.approve(name, bench.controller.pending_plan()) == {"approved": []}, "it was carried out"
    bench.engine.containers._crash(bench.engine.containers.named("shop-web-1").id)
    await bench.until(lambda: images(bench) == ["2"])
    plan = bench.controller.pending_plan()
    assert await commands.approve(plan["hash"], plan) == {"approved": []}
    bench.source.put(shop(3, deploys=manual))
    await ready_reason(bench, "ApprovalNeeded")
    with pytest.raises(Conflict, match="another one by now"):
        await commands.approve(name, bench.controller.pending_plan())


def test_an_approval_outlives_the_agent(tmp_path: Path) -> None:
    """Of the newest ones; and only as long as what it led to is wanted."""
    engine, manual = FakeEngine(), {"apply": "manual"}

    async def approve() -> list[str]:
        async with running(tmp_path, engine) as bench:
            bench.source.put(shop(1, deploys=manual))
            await ready_reason(bench, "ApprovalNeeded")
            plan = bench.controller.pending_plan()
            assert await bench.controller.deploys.approve(plan["hash"], plan) == {"approved": ["shop"]}
            await bench.until(lambda: count(bench, "DeploySucceeded"))
            return [plan["hash"], plan["apps"][0]["hash"]]

    async def ask_again(whole: str, alone: str) -> None:
        async with running(tmp_path, engine) as bench:
            await bench.want(shop(1, deploys=manual))
            assert await bench.controller.deploys.approve(whole, bench.controller.pending_plan()) == {"approved": []}
            with pytest.raises(Conflict, match="no plan of this agent"):
                await bench.controller.deploys.approve(alone, bench.controller.pending_plan())
            bench.source.put(shop(2, deploys=manual))
            await ready_reason(bench, "ApprovalNeeded")
            with pytest.raises(Conflict, match="no plan of this agent"):
                await bench.controller.deploys.approve(whole, bench.controller.pending_plan())
            journal = bench.controller._shared.journal
            approvals = Approvals(bench.database, journal)
            for number in range(KEPT):
                approvals.note(f"{number}", {"shop": "some"}, 1.0 + number)
            await journal.flush()
            assert set(bench.database.all("approval")) == {str(number) for number in range(KEPT)}

    asyncio.run(ask_again(*asyncio.run(approve())))


@on_bench
async def test_the_plan_of_a_paused_app_can_be_applied(bench: Bench) -> None:
    await in_force(bench, shop(1))
    await bench.controller.deploys.pause("shop")
    bench.source.put(shop(2))
    await ready_reason(bench, "Paused")
    await bench.controller.sync()
    plan = bench.controller.pending_plan()
    assert plan["apps"][0]["actions"]
    assert await bench.controller.deploys.approve(plan["hash"], plan) == {"approved": ["shop"]}
    await bench.until(lambda: images(bench) == ["2"])


@on_bench
async def test_outside_of_its_windows_an_app_is_healed_and_rolled_back_only(bench: Bench) -> None:
    closed = {"windows": [{"allow": True, "cron": "0 0 29 2 *", "duration": 60.0, "timezone": "Europe/Berlin"}]}
    await in_force(bench, shop(1))
    await in_force(bench, shop(2))
    bench.source.put(shop(3, deploys=closed))
    message = await ready_reason(bench, "OutsideWindow")
    assert "02-29 00:00 Europe/Berlin" in message
    assert bench.condition("shop", "Stalled")["status"] == "False"
    bench.engine.containers._crash(bench.engine.containers.named("shop-web-1").id)
    await bench.until(lambda: images(bench) == ["2"])
    assert bench.engine.containers.calls.count("start shop-web-1") == 3
    await bench.controller.deploys.rollback("shop", None)
    await bench.until(lambda: images(bench) == ["1"])


@on_bench
async def test_a_window_that_opens_begins_the_deploy_by_itself(bench: Bench) -> None:
    opening = datetime(2028, 2, 29, tzinfo=UTC).timestamp()
    released: list[float] = []  # the clock stands until then
    bench.controller._shared.clock = lambda: opening - 0.3 + sum(time.time() - moment for moment in released)
    leap = {"windows": [{"allow": True, "cron": "0 0 29 2 *", "duration": 60.0}]}
    bench.source.put(shop(1, deploys=leap))
    await ready_reason(bench, "OutsideWindow")
    assert images(bench) == []
    released.append(time.time())
    await bench.until(lambda: images(bench) == ["1"])


@on_bench
async def test_a_port_of_a_deploy_under_way_is_its_apps_own(bench: Bench) -> None:
    check = {"healthcheck": {"test": ("CMD", "true"), "interval": 60.0}, "ports": [{"published": 80, "target": 80}]}
    await in_force(bench, shop(1))
    bench.source.put(shop(2, **check))
    await bench.until(lambda: [port.host_port for port in bench.engine.networks.published] == [80])
    bench.engine.capacity.ports[80] = "port 0.0.0.0:80/tcp is in use by holdfast"
    await in_force(bench, shop(3, ports=[{"published": 80, "target": 80}]))


@pytest.mark.parametrize("lack", ["memory", "room", "port", "app"])
def test_what_the_host_lacks_is_found_before_anything_changes(tmp_path: Path, lack: str) -> None:
    async def main() -> None:
        async with running(tmp_path) as bench:
            await in_force(bench, shop(1), shop(1, name="blog", ports=[{"published": 81, "target": 80}]))
            capacity, more = bench.engine.capacity, {}
            if lack == "memory":
                more, reason = {"memory": 9 << 30}, "InsufficientMemory"
            elif lack == "room":
                capacity.free, reason = 1000, "InsufficientStorage"
            else:
                capacity.ports[80] = "port 0.0.0.0:80/tcp is in use by nginx (pid 7)"
                number = 80 if lack == "port" else 81
                more, reason = {"ports": [{"published": number, "target": 80}]}, "PortConflict"
            blog = shop(1, name="blog", ports=[{"published": 81, "target": 80}])
            bench.source.put(shop(2, **more), blog)
            message = await ready_reason(bench, reason)
            assert images(bench) == ["1"]
            assert ("blog" in message, "nginx" in message) == (lack == "app", lack == "port")
            capacity.total, capacity.free = 99 << 30, 99 << 30
            capacity.ports.clear()
            bench.source.put(shop(2, **more))
            await bench.controller.sync()
            assert await bench.controller.wait_converged(60)
            assert images(bench) == ["2"]

    asyncio.run(main())


def test_an_answer_is_given_when_the_choice_is_on_disk(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as bench:
            await in_force(bench, shop(1))
            await bench.controller.deploys.pause("shop")
            assert bench.database.get("deploy", "shop")["choices"]["paused"] == [""]

    asyncio.run(main())

"""Apps of one group are one transaction: prepared together, final together, taken back together."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from deploy_cases import count, images, in_force, on_bench, ready_reason, shop
from fake_engine import FakeEngine
from loop_bench import Bench, running
from memory_source import Files

from agent.errors import NotFound, Problem
from agent.plan.deploy import Deploy, Stage
from agent.plan.group import Member, find_companions, find_hindrance, find_partners, may_commit

GROUP = {"group": "site"}


def pair(front: int, back: int, **more: Any) -> tuple[Any, Any]:
    return shop(front, name="front", deploys=GROUP, **more), shop(back, name="back", deploys=GROUP)


def versions(bench: Bench) -> tuple[list[str], list[str]]:
    return images(bench, "front"), images(bench, "back")


@on_bench
async def test_none_begins_before_all_are_prepared(bench: Bench) -> None:
    await in_force(bench, *pair(1, 1))
    bench.engine.images.failures["example/web:3"] = NotFound("no such image", reason="ImageNotFound")
    bench.source.put(*pair(2, 3))
    assert "app back: its images are not all local" in await ready_reason(bench, "GroupWaiting", "front")
    assert versions(bench) == (["1"], ["1"])
    bench.engine.images.failures.clear()
    await bench.controller.sync()
    await bench.until(lambda: versions(bench) == (["2"], ["3"]))
    assert await bench.controller.wait_converged(60)


@on_bench
async def test_when_one_fails_all_that_changed_go_back_and_wait_for_a_change(bench: Bench) -> None:
    await in_force(bench, *pair(1, 1), shop(1, name="other"))
    bench.engine.containers.doomed["example/web:3"] = 0.0
    bench.source.put(*pair(2, 3), shop(2, name="other"))
    await bench.until(lambda: count(bench, "DeployRolledBack", "front") and count(bench, "DeployRolledBack", "back"))
    await bench.until(lambda: versions(bench) == (["1"], ["1"]))
    await bench.until(lambda: images(bench, "other") == ["2"])
    assert "app back of its group failed" in await ready_reason(bench, "RolledBack", "front")
    assert count(bench, "DeploySucceeded", "front") == 1
    await in_force(bench, *pair(2, 4), shop(2, name="other"))
    await bench.until(lambda: versions(bench) == (["2"], ["4"]))
    assert await bench.controller.wait_converged(60), "what was taken back for the other's sake is tried again with it"


@on_bench
async def test_apps_of_one_group_swap_their_ports(bench: Bench) -> None:
    def ported(front: int, back: int, version: int) -> tuple[Any, Any]:
        numbers = {"front": front, "back": back}
        return tuple(  # type: ignore[return-value]
            shop(version, name=name, deploys=GROUP, ports=[{"published": number, "target": 80}])
            for name, number in numbers.items()
        )

    def leads_to_front(number: int) -> bool:
        published = {port.host_port: port.backends for port in bench.engine.networks.published}
        return published[number] == ((bench.engine.containers.named("front-web-1").ip, 80),)

    await in_force(bench, *ported(80, 81, 1))
    bench.engine.capacity.ports |= dict.fromkeys((80, 81), "port 0.0.0.0:80/tcp is in use by holdfast")
    await in_force(bench, *ported(81, 80, 2))
    assert versions(bench) == (["2"], ["2"])
    assert await bench.controller.wait_converged(60)
    await bench.until(lambda: leads_to_front(81))
    bench.engine.containers.doomed["example/web:3"] = 0.0
    bench.source.put(*ported(80, 81, 3))
    await ready_reason(bench, "RolledBack", "front")
    await ready_reason(bench, "RolledBack", "back")
    await bench.until(lambda: leads_to_front(81))


@on_bench
async def test_one_is_final_when_the_last_one_is(bench: Bench) -> None:
    await in_force(bench, *pair(1, 1))
    bench.engine.containers.holdups["back-web-1"] = threading.Event()
    bench.source.put(*pair(2, 2))
    await bench.until(lambda: images(bench, "front") == ["2"])
    await bench.until(lambda: "waits for the others" in bench.condition("front", "Reconciling")["message"])
    assert count(bench, "DeploySucceeded", "front") == 1
    bench.engine.containers.holdups.pop("back-web-1").set()
    await bench.until(lambda: count(bench, "DeploySucceeded", "front") == count(bench, "DeploySucceeded", "back") == 2)
    assert await bench.controller.wait_converged(60)


@pytest.mark.parametrize("fate", ["good", "bad"])
def test_an_agent_that_comes_back_keeps_the_group_together(tmp_path: Path, fate: str) -> None:
    engine = FakeEngine()

    async def begin() -> None:
        async with running(tmp_path, engine) as bench:
            await in_force(bench, *pair(1, 1))
            engine.containers.holdups["back-web-1"] = threading.Event()
            bench.source.put(*pair(2, 2))
            await bench.until(lambda: "waits for the others" in bench.condition("front", "Reconciling")["message"])
            engine.containers.holdups.pop("back-web-1").set()

    async def go_on() -> None:
        if fate == "bad":
            engine.containers.doomed["example/web:2"] = 0.0
            for record in engine.containers.running():
                if record.config.image_name == "example/web:2" and record.name == "front-web-1":
                    engine.containers._crash(record.id)
        async with running(tmp_path, engine) as bench:
            bench.source.put(*pair(2, 2))
            wanted = "2" if fate == "good" else "1"
            end = "DeploySucceeded" if fate == "good" else "DeployRolledBack"
            await bench.until(lambda: count(bench, end, "front") and count(bench, end, "back"))
            await bench.until(lambda: versions(bench) == ([wanted], [wanted]))

    asyncio.run(begin())
    asyncio.run(go_on())


@on_bench
async def test_a_broken_file_of_one_keeps_all_from_beginning(bench: Bench) -> None:
    await in_force(bench, *pair(1, 1))
    broken = Files("back", "broken", None, (Problem("back.yaml", 1, 1, "what is this"),))
    bench.source.put(pair(2, 1)[0], broken)
    assert "app back: its files cannot be used" in await ready_reason(bench, "GroupWaiting", "front")
    bench.source.put(*pair(2, 1))
    await bench.until(lambda: versions(bench) == (["2"], ["1"]))


@on_bench
async def test_whoever_is_wanted_as_it_was_is_not_waited_for(bench: Bench) -> None:
    check = {"healthcheck": {"test": ("CMD", "true"), "interval": 60.0}}
    await in_force(bench, *pair(1, 1))
    front, back = pair(2, 1)
    bench.source.put(front, shop(2, name="back", deploys=GROUP, **check))
    await bench.until(lambda: "waits for the others" in bench.condition("front", "Reconciling")["message"])
    bench.source.put(front, back)
    await bench.until(lambda: versions(bench) == (["2"], ["1"]))
    await bench.until(lambda: count(bench, "DeploySucceeded", "front") == 2)


@on_bench
async def test_retry_is_of_the_whole_group(bench: Bench) -> None:
    await in_force(bench, *pair(1, 1))
    bench.engine.containers.doomed["example/web:3"] = 0.0
    bench.source.put(*pair(2, 3))
    await ready_reason(bench, "RolledBack", "front")
    await ready_reason(bench, "RolledBack", "back")
    bench.engine.containers.doomed.clear()
    assert await bench.controller.deploys.retry("front") == {"retried": ["front", "back"]}
    await bench.until(lambda: versions(bench) == (["2"], ["3"]))
    assert await bench.controller.wait_converged(60)


@on_bench
async def test_a_new_app_that_fails_takes_those_back_that_were_to_come_with_it(bench: Bench) -> None:
    await in_force(bench, pair(1, 1)[0])
    bench.engine.containers.doomed["example/web:3"] = 0.0
    bench.source.put(*pair(2, 3))
    await bench.until(lambda: count(bench, "DeployRolledBack", "front"))
    assert "app back of its group failed: back-web-1" in await ready_reason(bench, "RolledBack", "front")
    assert images(bench, "front") == ["1"]
    bench.engine.containers.doomed.clear()
    await in_force(bench, *pair(2, 4))
    await bench.until(lambda: versions(bench) == (["2"], ["4"]))


@on_bench
async def test_a_new_app_that_goes_on_failing_is_not_waited_for(bench: Bench) -> None:
    await in_force(bench, pair(1, 1)[0])
    bench.engine.containers.doomed["example/web:3"] = 0.0
    bench.source.put(pair(1, 3)[1], pair(1, 3)[0])
    await bench.until(lambda: bench.engine.containers.calls.count("start back-web-1") > 2)
    bench.source.put(*pair(2, 3))
    await bench.until(lambda: count(bench, "DeploySucceeded", "front") == 2)
    assert images(bench, "front") == ["2"]


def test_the_rules_of_a_group() -> None:
    deploy = Deploy("new", "old", ("web",), 0.0)
    first = Deploy("new", "", ("web",), 0.0)
    reverting = Deploy("new", "old", ("web",), 0.0, Stage.REVERTING)
    members = [
        Member("a"),
        Member("b", deploy=deploy, baked=True),
        Member("c", deploy=first),
        Member("d", "", reverting),
    ]
    assert find_hindrance(members) == ""
    assert find_hindrance([*members, Member("e", "it is paused")]) == "app e: it is paused"
    assert [member.app for member in find_partners(members, 0.0)] == ["b", "c", "d"]
    assert [member.app for member in find_partners(members, 1.0)] == ["b", "d"], "c was failing before"
    assert may_commit(members[1:2])
    assert not may_commit(members)
    assert find_companions(members) == ("b",)

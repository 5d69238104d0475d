"""Reserved memory of all apps together has to fit into the host before a revision is begun."""

from __future__ import annotations

from typing import Any

from deploy_cases import QUICK, count, images, in_force, on_bench, ready_reason, shop
from loop_bench import Bench

GIB = 1 << 30
STOP_FIRST = {"update": {**QUICK, "order": "stop-first"}}
MIB_OF_HOST = "this host has 8192 MiB"


def reserving(version: int, gib: float, **more: Any) -> Any:
    return shop(version, memory_reservation=int(gib * GIB), **more)


@on_bench
async def test_the_sum_of_all_apps_has_to_fit_and_a_deploy_goes_on_once_there_is_room(bench: Bench) -> None:
    blog = reserving(1, 5, name="blog")
    await in_force(bench, reserving(1, 1), blog)
    bench.source.put(reserving(2, 3.5), blog)
    message = await ready_reason(bench, "InsufficientMemory")
    assert "it needs 4608 MiB of reserved memory (shop/web: 1 x 3584 MiB and 1024 MiB while old and new" in message
    assert f"app blog has 5120 MiB, and {MIB_OF_HOST}" in message
    assert "lower deploy.resources.reservations.memory" in message
    assert "stop-first" not in message, "it would not fit either"
    assert bench.condition("shop", "Stalled")["status"] == "True"
    plan = bench.controller.pending_plan()
    assert any("4608 MiB" in hold["message"] for app in plan["apps"] for hold in app["holds"])
    assert images(bench) == ["1"]
    bench.source.put(reserving(2, 3.5))
    await bench.controller.sync()
    await bench.until(lambda: images(bench) == ["2"])


@on_bench
async def test_stop_first_has_none_beside_the_old_ones(bench: Bench) -> None:
    await in_force(bench, reserving(1, 2, replicas=3))
    await in_force(bench, reserving(2, 2, replicas=3))
    bench.engine.capacity.total = 7 * GIB
    bench.source.put(reserving(3, 2, replicas=3))
    message = await ready_reason(bench, "InsufficientMemory")
    assert "(shop/web: 3 x 2048 MiB and 2048 MiB while old and new run side by side)" in message
    assert "set its update_config.order to stop-first" in message
    await in_force(bench, reserving(4, 2, replicas=3, **STOP_FIRST))
    await in_force(bench, reserving(5, 2, replicas=3, **STOP_FIRST))


@on_bench
async def test_what_is_in_force_may_give_back_on_a_host_that_is_overbooked(bench: Bench) -> None:
    await in_force(bench, reserving(1, 4, **STOP_FIRST))
    bench.engine.capacity.total = 2 * GIB
    bench.source.put(reserving(1, 4, replicas=2, **STOP_FIRST))
    await ready_reason(bench, "InsufficientMemory")
    await in_force(bench, reserving(2, 1, **STOP_FIRST))


@on_bench
async def test_limits_may_be_promised_more_often_than_there_is(bench: Bench) -> None:
    await in_force(bench, shop(1, memory=7 * GIB, replicas=4))


@on_bench
async def test_what_other_programs_have_taken_is_not_there(bench: Bench) -> None:
    await in_force(bench, reserving(1, 1))
    bench.engine.capacity.available = GIB // 2
    bench.source.put(reserving(2, 1, replicas=2))
    message = await ready_reason(bench, "InsufficientMemory")
    assert "2048 MiB more than now, and 512 MiB of this host's 8192 MiB are available now" in message
    assert bench.condition("shop", "Stalled")["status"] == "False"
    assert images(bench) == ["1"]
    bench.engine.capacity.available = 3 * GIB
    await bench.controller.sync()
    await bench.until(lambda: images(bench) == ["2", "2"])


@on_bench
async def test_apps_of_one_group_need_their_memory_together(bench: Bench) -> None:
    group = {"group": "one"}
    bench.source.put(reserving(1, 5, deploys=group), reserving(1, 4, name="blog", deploys=group))
    message = await ready_reason(bench, "InsufficientMemory")
    assert "it needs 9216 MiB of reserved memory" in message
    assert "4096 MiB of it with its group" in message
    assert not images(bench, "shop") + images(bench, "blog")
    bench.source.put(reserving(1, 4, deploys=group), reserving(1, 4, name="blog", deploys=group))
    await bench.until(lambda: count(bench, "DeploySucceeded", "shop") + count(bench, "DeploySucceeded", "blog") == 2)


@on_bench
async def test_an_app_that_goes_in_the_same_revision_is_not_counted(bench: Bench) -> None:
    await in_force(bench, reserving(1, 6, name="blog"))
    bench.engine.containers.stubborn.add(bench.engine.containers.named("blog-web-1").id)
    bench.source.put(reserving(2, 6))
    await bench.until(lambda: images(bench) == ["2"])
    assert images(bench, "blog") == ["1"], "it is still on its way out"

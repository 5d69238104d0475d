"""The whole loop on an engine in memory: from revisions and events to calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any

from fake_engine import image_id
from loop_bench import GO_ON, Bench, make_app, running
from memory_source import Files

from agent.engine.model import ExitStatus
from agent.errors import Problem, Stalled, Waiting


def on_bench(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """Run a test on a running controller."""

    @wraps(test)
    def run(tmp_path: Path) -> None:
        async def body() -> None:
            async with running(tmp_path) as bench:
                await test(bench)

        asyncio.run(body())

    del run.__wrapped__  # type: ignore[attr-defined]
    return run


@on_bench
async def test_app_comes_up(bench: Bench) -> None:
    await bench.want(make_app(services={"web": {"replicas": 3}}))
    assert bench.names() == ["shop-web-1", "shop-web-2", "shop-web-3"]
    assert bench.engine.networks.names == {"shop_default"}
    assert bench.engine.images.calls == ["pull example/web:1 missing"]
    status = bench.controller.status()["apps"][0]
    assert status["services"][0]["ready"] == 3
    assert bench.condition("shop", "Ready")["status"] == "True"
    assert bench.controller.pending_plan()["apps"][0]["actions"] == []


@on_bench
async def test_scaling_touches_no_other_container(bench: Bench) -> None:
    await bench.want(make_app(services={"web": {"replicas": 2}}))
    first = {record.id for record in bench.engine.containers.running()}
    await bench.want(make_app(services={"web": {"replicas": 4}}))
    assert first < {record.id for record in bench.engine.containers.running()}
    await bench.want(make_app(services={"web": {"replicas": 1}}))
    assert bench.names() == ["shop-web-1"]
    assert len(bench.engine.containers.list()) == 1


@on_bench
async def test_changed_spec_is_replaced_start_first(bench: Bench) -> None:
    await bench.want(make_app(services={"web": {"replicas": 2}}))
    bench.engine.containers.calls.clear()
    await bench.want(make_app(services={"web": {"replicas": 2, "environment": {"COLOUR": "blue"}}}))
    calls = [call for call in bench.engine.containers.calls if not call.startswith("remove")]
    assert sorted(calls) == ["start shop-web-1", "start shop-web-2", "stop shop-web-1", "stop shop-web-2"]
    assert all(calls.index(f"start {name}") < calls.index(f"stop {name}") for name in ("shop-web-1", "shop-web-2"))
    assert {r.config.process.environment["COLOUR"] for r in bench.engine.containers.running()} == {"blue"}


@on_bench
async def test_plan_shows_the_fields_that_changed_without_secrets(bench: Bench) -> None:
    bench.engine.images.local["example/web:1"] = image_id("one")
    await bench.want(make_app(services={"web": {**GO_ON, "environment": {"COLOUR": "red", "DB_PASSWORD": "tiger"}}}))
    bench.engine.containers.failures["shop-web-1"] = Stalled("no such command", reason="StartFailed")
    bench.source.put(make_app(services={"web": {**GO_ON, "environment": {"COLOUR": "blue", "DB_PASSWORD": "lion"}}}))
    await bench.until(lambda: bench.condition("shop", "Stalled")["reason"] == "StartFailed")
    del bench.engine.containers.failures["shop-web-1"]
    worker = bench.controller._workers["shop"]
    worker.slots.keep({})
    (app,) = bench.controller.pending_plan()["apps"]
    start = next(action for action in app["actions"] if action["kind"] == "StartContainer")
    changes = {change["path"]: (change["old"], change["new"]) for change in start["cause"]["changes"]}
    assert changes == {"environment.COLOUR": ('"red"', '"blue"'), "environment.DB_PASSWORD": ("***", "***")}


@on_bench
async def test_exited_container_is_restarted_at_once(bench: Bench) -> None:
    await bench.want(make_app(services={"web": {"replicas": 2}}))
    victim = bench.engine.containers.named("shop-web-1")
    bench.engine.containers.end(victim.id, ExitStatus(1))
    await bench.until(lambda: victim.id not in [record.id for record in bench.engine.containers.list()])
    await bench.until(lambda: len(bench.names()) == 2 and len(bench.engine.containers.list()) == 2)
    row = next(row for row in bench.controller.containers() if row["slot"] == 1)
    assert row["id"] != victim.id
    assert row["restarts"] == 1
    await bench.until(lambda: 'holdfast_service_restarts_total{app="shop",service="web"} 1.0' in bench.metrics_text())


@on_bench
async def test_failed_start_backs_off_and_stalls_by_its_disposition(bench: Bench) -> None:
    bench.engine.containers.failures["shop-web-1"] = Waiting("disk is full", retry_after=60, reason="DiskFull")
    bench.engine.containers.failures["other-web-1"] = Stalled("no such user", reason="UnknownUser")
    bench.source.put(make_app(), make_app("other"), make_app("fine"))
    await bench.until(lambda: bench.names() == ["fine-web-1"])
    await bench.until(lambda: bench.condition("other", "Stalled")["status"] == "True")
    await bench.until(lambda: bench.condition("shop", "Ready")["reason"] == "DiskFull")
    assert bench.condition("shop", "Stalled")["status"] == "False"
    assert bench.condition("other", "Stalled")["reason"] == "UnknownUser"
    bench.engine.containers.failures.clear()
    await bench.controller.sync()
    assert await bench.controller.wait_converged(60)
    assert len(bench.names()) == 3


@on_bench
async def test_slow_pull_delays_neither_other_apps_nor_what_runs(bench: Bench) -> None:
    await bench.want(make_app())
    gate = threading.Event()
    bench.engine.images.holdups["example/slow:1"] = gate
    bench.source.put(make_app(services={"slow": {}, "web": {}}), make_app("other"))
    await bench.until(lambda: bench.names() == ["other-web-1", "shop-web-1"])
    victim = bench.engine.containers.named("shop-web-1")
    bench.engine.containers.end(victim.id, ExitStatus(137))
    await bench.until(lambda: len(bench.names()) == 2)
    gate.set()
    assert await bench.controller.wait_converged(60)
    assert bench.names() == ["other-web-1", "shop-slow-1", "shop-web-1"]


@on_bench
async def test_failed_pull_of_a_new_image_keeps_and_heals_the_old_container(bench: Bench) -> None:
    await bench.want(make_app())
    bench.engine.images.failures["example/web:2"] = Waiting("registry is down", retry_after=60, reason="RegistryDown")
    bench.source.put(make_app(services={"web": {"image": "example/web:2"}}))
    await bench.until(lambda: bench.condition("shop", "Ready")["reason"] == "RegistryDown")
    victim = bench.engine.containers.named("shop-web-1")
    bench.engine.containers.end(victim.id, ExitStatus(1))
    await bench.until(lambda: bench.names() == ["shop-web-1"])
    assert bench.engine.containers.named("shop-web-1").config.image_name == "example/web:1"
    bench.engine.images.failures.clear()
    await bench.controller.sync()
    assert await bench.controller.wait_converged(60)
    assert bench.engine.containers.named("shop-web-1").config.image_name == "example/web:2"


@on_bench
async def test_invalid_file_keeps_the_last_good_app(bench: Bench) -> None:
    await bench.want(make_app())
    before = bench.engine.containers.named("shop-web-1").id
    bench.source.put(Files("shop", "broken", None, (Problem("shop.yaml", 3, 5, "unknown key imagee"),)))
    await bench.until(lambda: bench.condition("shop", "Ready")["reason"] == "InvalidSpec")
    assert "shop.yaml:3:5" in bench.condition("shop", "Ready")["message"]
    assert "last good version stays" in bench.condition("shop", "Ready")["message"]
    (app,) = bench.controller.pending_plan()["apps"]
    assert [hold["reason"] for hold in app["holds"]] == ["InvalidSpec"]
    victim = bench.engine.containers.named("shop-web-1")
    assert victim.id == before
    bench.engine.containers.end(victim.id, ExitStatus(1))
    await bench.until(lambda: bench.names() == ["shop-web-1"])


@on_bench
async def test_warnings_are_shown_in_the_plan_and_logged_when_they_change(bench: Bench) -> None:
    told: list[Problem] = []
    bench.controller._shared.events.warn = lambda warnings, *, app: told.extend(warnings)  # type: ignore[method-assign]
    first, second = (Problem("shop.yaml", line, 5, "the variable A is not set") for line in (1, 2))
    app = make_app()
    for digest, warnings in (("one", (first,)), ("two", (first,)), ("three", (first, second)), ("four", ())):
        bench.source.put(Files("shop", digest, app, (), warnings))
        await bench.until(
            lambda digest=digest: any(one["revision"] == digest for one in bench.controller.status()["apps"])
        )
        (planned,) = bench.controller.pending_plan()["apps"]
        assert [warning["line"] for warning in planned["warnings"]] == [warning.line for warning in warnings]
    assert told == [first, first, second]


@on_bench
async def test_removed_app_is_pruned_without_its_volumes(bench: Bench) -> None:
    mounts = [{"kind": "volume", "source": "data", "target": "/data"}]
    await bench.want(make_app(services={"web": {"mounts": mounts}}), make_app("other"))
    assert bench.engine.volumes.names == {"shop_data"}
    await bench.want(make_app("other"))
    await bench.until(lambda: [app["name"] for app in bench.controller.status()["apps"]] == ["other"])
    assert bench.names() == ["other-web-1"]
    assert bench.engine.networks.names == {"other_default"}
    assert bench.engine.volumes.names == {"shop_data"}
    await bench.controller._shared.journal.flush()
    assert set(bench.database.all("app")) == {"other"}
    assert set(bench.database.all("app_network")) == {"other/other_default"}


@on_bench
async def test_unreadable_source_changes_nothing(bench: Bench) -> None:
    await bench.want(make_app())
    bench.source.failure = Waiting("state directory is gone", reason="SourceUnreadable", retry_after=60)
    bench.source.touch()
    await bench.until(lambda: "state directory is gone" in bench.controller.status()["source"])
    assert bench.names() == ["shop-web-1"]
    assert not bench.controller.converged
    assert "state directory is gone" in bench.controller.pending_plan()["source"]


@on_bench
async def test_ports_go_to_ready_replicas_only(bench: Bench) -> None:
    ports = [{"host_ip": "127.0.0.1", "published": 8080, "target": 80, "protocol": "tcp"}]
    check = {"test": ["CMD", "true"], "interval": 0.01}
    bench.engine.verdicts.update({"shop-web-1": 0, "shop-web-2": 1})
    bench.source.put(make_app(services={"web": {"replicas": 2, "ports": ports, "healthcheck": check}}))

    def published() -> tuple[tuple[str, int], ...]:
        return next((port.backends for port in bench.engine.networks.published if port.host_port == 8080), ())

    first = await bench.until(published)
    assert first == ((bench.engine.containers.named("shop-web-1").ip, 80),)
    bench.engine.verdicts["shop-web-2"] = 0

    def both_named_and_published() -> bool:
        addresses = {backend[0] for backend in published()}
        return len(addresses) == 2 and set(bench.engine.networks.services["shop_default"]["web"]) == addresses

    await bench.until(both_named_and_published)


@on_bench
async def test_port_of_two_apps_goes_to_the_first(bench: Bench) -> None:
    service = {"ports": [{"host_ip": "", "published": 8080, "target": 80, "protocol": "tcp"}]}
    local = {"ports": [{"host_ip": "127.0.0.1", "published": 8080, "target": 80, "protocol": "tcp"}]}
    await bench.want(make_app("second", services={"web": service}))
    bench.source.put(make_app("second", services={"web": service}), make_app("first", services={"web": local}))
    await bench.until(lambda: bench.condition("first", "Stalled")["reason"] == "PortConflict")
    message = bench.condition("first", "Stalled")["message"]
    assert "first/web" in message
    assert "second" in message
    assert bench.condition("second", "Ready")["status"] == "True"
    await bench.want(make_app("first", services={"web": local}))
    assert bench.condition("first", "Stalled")["status"] == "False"


@on_bench
async def test_unhealthy_container_is_replaced_start_first(bench: Bench) -> None:
    check = {"test": ["CMD-SHELL", "true"], "interval": 0.01, "retries": 2}
    await bench.want(make_app(services={"web": {"healthcheck": check}}))
    first = bench.engine.containers.named("shop-web-1").id
    bench.engine.containers.calls.clear()
    bench.engine.verdicts["shop-web-1"] = 1
    await bench.until(lambda: "start shop-web-1" in bench.engine.containers.calls)
    assert first in {record.id for record in bench.engine.containers.running()}
    bench.engine.verdicts["shop-web-1"] = 0
    await bench.until(lambda: len(bench.engine.containers.list()) == 1 and bench.controller.converged)
    assert bench.controller.containers()[0]["health"] == "healthy"


@on_bench
async def test_probe_that_hangs_is_killed_and_counts_as_failed(bench: Bench) -> None:
    check = {"test": ["CMD", "sleep", "1000"], "interval": 0.01, "timeout": 0.01, "retries": 1}
    bench.engine.verdicts["shop-web-1"] = None
    bench.source.put(make_app(services={"web": {"healthcheck": check}}))
    await bench.until(lambda: bench.condition("shop", "Healthy")["status"] == "False")
    assert bench.engine.killed


@on_bench
async def test_job_completes_and_opens_the_way(bench: Bench) -> None:
    depends = {"job": {"condition": "service_completed_successfully", "required": True, "restart": False}}
    bench.source.put(make_app(services={"job": {}, "web": {"depends_on": depends}}))
    await bench.until(lambda: bench.names() == ["shop-job-1"])
    bench.engine.containers.end(bench.engine.containers.named("shop-job-1").id, ExitStatus(0))
    assert await bench.controller.wait_converged(60)
    assert bench.names() == ["shop-web-1"]
    assert bench.controller.status()["apps"][0]["services"][0]["ready"] == 1


@on_bench
async def test_build_is_repeated_only_when_what_it_reads_has_changed(bench: Bench) -> None:
    service = {"build": {"context": "/src", "dockerfile": "Dockerfile", "args": {}, "additional_contexts": {}}}
    await bench.want(make_app(services={"web": service}))
    first = bench.engine.containers.named("shop-web-1").config.image
    await bench.controller.sync()
    assert await bench.controller.wait_converged(60)
    assert bench.engine.images.calls == ["build shop-web"]
    bench.engine.images.inputs["/src"] = "two"
    await bench.controller.sync()
    assert await bench.controller.wait_converged(60)
    assert bench.engine.images.calls == ["build shop-web"] * 2
    assert bench.engine.containers.named("shop-web-1").config.image != first


@on_bench
async def test_empty_state_is_converged(bench: Bench) -> None:
    assert await bench.controller.wait_converged(5)
    assert bench.controller.status()["apps"] == []


@on_bench
async def test_down_stays_down_until_sync(bench: Bench) -> None:
    ports = [{"host_ip": "127.0.0.1", "published": 8080, "target": 80, "protocol": "tcp"}]
    await bench.want(make_app(services={"web": {"ports": ports}}))
    await bench.controller.down()
    bench.engine.networks.calls.clear()
    assert bench.engine.containers.list() == ()
    await bench.until(lambda: bench.condition("shop", "Ready")["reason"] == "Suspended")
    assert bench.engine.containers.list() == ()
    assert bench.engine.networks.calls == [], "down leaves no rule behind, and nothing makes one again"
    await bench.controller.sync()
    assert await bench.controller.wait_converged(60)
    assert bench.names() == ["shop-web-1"]


@on_bench
async def test_down_ends_with_a_change_of_the_desired_state(bench: Bench) -> None:
    await bench.want(make_app())
    await bench.controller.down()
    await bench.want(make_app(), make_app("other"))
    assert bench.names() == ["other-web-1", "shop-web-1"]


@on_bench
async def test_slow_stop_does_not_keep_others_from_being_healed(bench: Bench) -> None:
    await bench.want(make_app(services={"a": {}, "b": {}}))
    slow = bench.engine.containers.named("shop-a-1")
    bench.engine.containers.stubborn.add(slow.id)
    bench.source.put(make_app(services={"b": {}}))
    await bench.until(lambda: "stop shop-a-1" in bench.engine.containers.calls)
    victim = bench.engine.containers.named("shop-b-1")
    bench.engine.containers.end(victim.id, ExitStatus(1))
    await bench.until(lambda: bench.engine.containers.calls.count("start shop-b-1") == 2)


@on_bench
async def test_crash_loop_backs_off_and_says_so(bench: Bench) -> None:
    bench.source.put(make_app())
    for _ in range(4):
        await bench.until(bench.names)
        bench.engine.containers.end(bench.engine.containers.named("shop-web-1").id, ExitStatus(3))
    await bench.until(lambda: bench.condition("shop", "Ready")["reason"] == "BackOff")
    assert "exited with code 3" in bench.condition("shop", "Ready")["message"]
    (app,) = bench.controller.pending_plan()["apps"]
    assert not [action for action in app["actions"] if action["kind"] == "StartContainer"]
    assert app["next_check"] > 0
    await bench.until(bench.names)
    assert bench.controller.containers()[-1]["restarts"] == 4


@on_bench
async def test_drift_is_counted_once_and_as_corrected(bench: Bench) -> None:
    await bench.want(make_app())
    assert "holdfast_drift_found_total" not in bench.metrics_text() or 'app="shop"} 1.0' not in bench.metrics_text()
    record = bench.engine.containers.named("shop-web-1")
    bench.engine.containers.end(record.id, ExitStatus(0))
    await bench.until(lambda: bench.names() and len(bench.engine.containers.list()) == 1 and bench.controller.converged)
    found = [line for line in bench.metrics_text().splitlines() if line.startswith("holdfast_drift_")]
    values = {line.split("{")[0]: line.rsplit(" ", 1)[1] for line in found}
    assert values["holdfast_drift_found_total"] == values["holdfast_drift_corrected_total"] != "0.0"


@on_bench
async def test_custom_network_shared_by_two_apps_outlives_one(bench: Bench) -> None:
    shared = {"networks": {"default": {"name": "shared", "driver": "bridge", "internal": False, "labels": {}}}}
    await bench.want(make_app("one", **shared), make_app("two", **shared))
    await bench.want(make_app("two", **shared))
    await bench.until(lambda: [app["name"] for app in bench.controller.status()["apps"]] == ["two"])
    assert bench.engine.networks.names == {"shared"}
    assert bench.engine.networks.services["shared"]["web"] == (bench.engine.containers.named("two-web-1").ip,)


@on_bench
async def test_port_that_another_program_has_is_told_and_tried_again(bench: Bench) -> None:
    bench.engine.networks.refused["127.0.0.1", 8080, "tcp"] = "port 127.0.0.1:8080/tcp is held by nginx (pid 7)"
    ports = [{"host_ip": "127.0.0.1", "published": 8080, "target": 80, "protocol": "tcp"}]
    bench.source.put(make_app(services={"web": {"ports": ports}}), make_app("other"))
    await bench.until(lambda: bench.condition("shop", "Stalled")["reason"] == "PortConflict")
    assert "nginx" in bench.condition("shop", "Ready")["message"]
    await bench.until(lambda: bench.condition("other", "Ready")["status"] == "True")
    bench.engine.networks.refused.clear()
    await bench.until(lambda: bench.condition("shop", "Ready")["status"] == "True")


@on_bench
async def test_names_that_are_not_answered_are_told(bench: Bench) -> None:
    await bench.want(make_app())
    bench.engine.networks.fail_names("names are not answered: no memory")
    await bench.until(lambda: bench.condition("shop", "Ready")["reason"] == "NamesUnavailable")
    assert not await bench.controller.wait_converged(0.01)
    assert "no memory" in bench.controller.status()["names"]
    assert "no memory" in bench.controller.pending_plan()["names"]
    bench.engine.networks.fail_names("")
    await bench.until(lambda: bench.condition("shop", "Ready")["status"] == "True")
    assert await bench.controller.wait_converged(60)
    assert {event.reason for event in bench.events.recent()} >= {"NamesUnavailable", "NamesAnswered"}


@on_bench
async def test_sync_looks_a_tag_up_again(bench: Bench) -> None:
    await bench.want(make_app(services={"web": {"pull_policy": "always"}}))
    first = bench.engine.containers.named("shop-web-1").config
    bench.engine.images.remote[first.image_name] = image_id("another")
    await bench.controller.sync()
    assert await bench.controller.wait_converged(60)
    await bench.until(lambda: bench.names() == ["shop-web-1"])
    assert bench.engine.containers.named("shop-web-1").config.image == image_id("another")

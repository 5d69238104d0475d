from __future__ import annotations

import subprocess
from dataclasses import replace

from samples_of_everything import CONTAINER, EVERYTHING

from agent.telemetry.metrics import Metrics
from agent.telemetry.samples import ServiceSample, Snapshot


def values(metrics: Metrics) -> dict[str, float]:
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith("holdfast_")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_promtool_accepts_all_of_it() -> None:
    metrics = Metrics("x")
    metrics.attach(lambda: EVERYTHING)
    metrics.reconciled(0.1)
    metrics.pulled(2.0, 1000, success=False)
    run = subprocess.run(["promtool", "check", "metrics"], input=metrics.render(), capture_output=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


def test_series_end_with_their_objects() -> None:
    metrics, current = Metrics("x"), [EVERYTHING]
    metrics.attach(lambda: current[0])
    metrics.restarted("shop", "web")
    metrics.drift_found("shop", 2)
    assert any('service="web"' in name for name in values(metrics))
    current[0] = Snapshot()
    assert not any("shop" in name for name in values(metrics))


def test_counter_of_a_returned_object_starts_again_at_zero() -> None:
    metrics, current = Metrics("x"), [EVERYTHING]
    metrics.attach(lambda: current[0])
    name = 'holdfast_service_restarts_total{app="shop",service="web"}'
    assert values(metrics)[name] == 0
    metrics.restarted("shop", "web")
    assert values(metrics)[name] == 1
    current[0] = Snapshot()
    values(metrics)
    current[0] = EVERYTHING
    assert values(metrics)[name] == 0


def test_service_counters_survive_their_containers() -> None:
    """The container whose out-of-memory kill was counted has gone before the next scrape; the count has not."""
    metrics = Metrics("x")
    metrics.attach(lambda: replace(EVERYTHING, containers=()))
    metrics.oom_killed("shop", "web")
    found = values(metrics)
    assert found['holdfast_service_oom_kills_total{app="shop",service="web"}'] == 1
    assert not any(name.startswith("holdfast_container_") for name in found)


def test_missing_limit_has_no_series() -> None:
    metrics = Metrics("x")
    metrics.attach(lambda: Snapshot(containers=(replace(CONTAINER, memory_limit_bytes=None),)))
    found = values(metrics)
    assert not any(name.startswith("holdfast_container_memory_limit") for name in found)
    assert any(name.startswith("holdfast_container_memory_bytes") for name in found)


def test_exactly_one_status_of_a_condition_holds() -> None:
    metrics = Metrics("x")
    metrics.attach(lambda: EVERYTHING)
    ready = {name: value for name, value in values(metrics).items() if 'type="Ready"' in name}
    assert len(ready) == 3
    assert [name for name, value in ready.items() if value] == [
        'holdfast_app_condition{app="shop",status="False",type="Ready"}'
    ]


def test_two_agents_in_one_process_do_not_mix() -> None:
    one, two = Metrics("one"), Metrics("two")
    one.attach(lambda: Snapshot(services=(ServiceSample("a", "w", 1, 1, 1),)))
    one.reconciled(1)
    assert values(one)['holdfast_reconciles_total{result="success"}'] == 1
    assert values(two)['holdfast_reconciles_total{result="success"}'] == 0
    assert not any('app="a"' in name for name in values(two))


def test_label_values_are_escaped() -> None:
    metrics = Metrics("x")
    metrics.attach(lambda: Snapshot(services=(ServiceSample('a"\n\\', "w", 1, 1, 1),)))
    run = subprocess.run(["promtool", "check", "metrics"], input=metrics.render(), capture_output=True, check=False)
    assert run.returncode == 0, run.stderr

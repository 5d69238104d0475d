"""A snapshot with one of each, so that every family has a series."""

from __future__ import annotations

from agent.telemetry.samples import ConditionSample, ContainerSample, DiskSample, ServiceSample, Snapshot, StoreSample

CONTAINER = ContainerSample(
    id="c" * 64,
    name="shop-web-1",
    app="shop",
    service="web",
    started=1.0,
    cpu_seconds=2.0,
    memory_bytes=3,
    memory_limit_bytes=4,
    pids=5,
    oom_kills=6,
    block_read_bytes=7,
    block_written_bytes=8,
    network_received_bytes=9,
    network_sent_bytes=10,
)
EVERYTHING = Snapshot(
    services=(ServiceSample("shop", "web", 3, 2, 1),),
    conditions=(ConditionSample("shop", "Ready", "False"), ConditionSample("shop", "Stalled", "Unknown")),
    containers=(CONTAINER,),
    disk=DiskSample(100, 50),
    store=StoreSample(4, 300, 200, 3, 1, 2, 100),
    converged=True,
)

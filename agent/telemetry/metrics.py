"""Prometheus metrics of one agent, in a registry of its own.

Two kinds: what the agent counts as it works (methods here; kept per service or app and forgotten with it), and
what is true at the moment of the scrape (rendered from one snapshot, so that no series outlives its object).
A counter of a service is shown as 0 from the service's first scrape, so that ``increase()`` sees its first step.
"""

from __future__ import annotations

import platform
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from agent import __version__
from agent.telemetry.render import SnapshotCollector, Tallies
from agent.telemetry.samples import Snapshot, SnapshotSource

RECONCILE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
PULL_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
BUILD_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts what happens; ``render`` gives the text of /metrics. Thread-safe."""

    def __init__(self, instance: str = "", clock: Callable[[], float] = time.time) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._tallies = Tallies(Tally(), Tally(), Tally(), Tally())
        self._source: SnapshotSource = Snapshot
        self._build_agent(instance, clock)
        self._build_work()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(SnapshotCollector(self._take))

    def _build_agent(self, instance: str, clock: Callable[[], float]) -> None:
        build = Gauge("holdfast_build_info", "Version of the agent.", ["version", "python"], registry=self.registry)
        build.labels(__version__, platform.python_version()).set(1)
        agent = Gauge("holdfast_agent_info", "Instance name of the agent.", ["instance_id"], registry=self.registry)
        agent.labels(instance).set(1)
        start = Gauge(
            "holdfast_agent_start_time_seconds", "When the agent started, in Unix seconds.", registry=self.registry
        )
        start.set(clock())

    def _build_work(self) -> None:
        registry = self.registry
        self._reconciles = Counter("holdfast_reconciles", "Reconciles by result.", ["result"], registry=registry)
        self._reconcile_seconds = Histogram(
            "holdfast_reconcile_duration_seconds",
            "Duration of one reconcile of one app.",
            buckets=RECONCILE_BUCKETS,
            registry=registry,
        )
        self._pulls = Counter("holdfast_pulls", "Image pulls by result.", ["result"], registry=registry)
        self._pulled_bytes = Counter("holdfast_pulled_bytes", "Bytes received by image pulls.", registry=registry)
        self._pull_seconds = Histogram(
            "holdfast_pull_duration_seconds", "Duration of one image pull.", buckets=PULL_BUCKETS, registry=registry
        )
        self._builds = Counter("holdfast_builds", "Image builds by result.", ["result"], registry=registry)
        self._build_seconds = Histogram(
            "holdfast_build_duration_seconds", "Duration of one image build.", buckets=BUILD_BUCKETS, registry=registry
        )
        for result in ("success", "failure"):
            self._reconciles.labels(result)
            self._pulls.labels(result)
            self._builds.labels(result)

    def attach(self, source: SnapshotSource) -> None:
        """Say where the state of the moment comes from; called in the thread that renders, at each scrape."""
        self._source = source

    def reconciled(self, seconds: float, *, success: bool = True) -> None:
        """One reconcile of one app ended."""
        self._reconciles.labels("success" if success else "failure").inc()
        self._reconcile_seconds.observe(seconds)

    def pulled(self, seconds: float, size: int, *, success: bool = True) -> None:
        """One image pull ended; ``size`` counts the bytes that came over the wire."""
        self._pulls.labels("success" if success else "failure").inc()
        self._pulled_bytes.inc(size)
        self._pull_seconds.observe(seconds)

    def built(self, seconds: float, *, success: bool = True) -> None:
        """One image build ended, in however many seconds."""
        self._builds.labels("success" if success else "failure").inc()
        self._build_seconds.observe(seconds)

    def restarted(self, app: str, service: str) -> None:
        """A container of a service was replaced because it ended or was unhealthy."""
        with self._lock:
            self._tallies.restarts[app, service] += 1

    def oom_killed(self, app: str, service: str) -> None:
        """The kernel killed a process of a service for want of memory."""
        with self._lock:
            self._tallies.oom_kills[app, service] += 1

    def drift_found(self, app: str, count: int = 1) -> None:
        """The host differed from an app's desired state in ``count`` things."""
        with self._lock:
            self._tallies.drift_found[app] += count

    def drift_corrected(self, app: str, count: int = 1) -> None:
        """``count`` differences between host and desired state were put right."""
        with self._lock:
            self._tallies.drift_corrected[app] += count

    def _take(self) -> tuple[Snapshot, Tallies]:
        snapshot = self._source()
        services = {(sample.app, sample.service) for sample in snapshot.services}
        apps = {app for app, _ in services} | {sample.app for sample in snapshot.conditions}
        with self._lock:
            return snapshot, self._tallies.keep(apps, services)

    def render(self) -> bytes:
        """The text exposition of everything (https://prometheus.io/docs/instrumenting/exposition_formats/)."""
        return generate_latest(self.registry)

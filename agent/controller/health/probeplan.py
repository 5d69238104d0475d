"""What the results of probes make of a container's health and readiness: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any

from agent.controller.health.healthplan import describe_failure
from agent.controller.inventory import HealthReading
from agent.plan.observed import Health
from agent.spec.model import Probe, Probes
from agent.values import frozen


class Kind(StrEnum):
    """The three probes."""

    READINESS = "readiness"
    LIVENESS = "liveness"
    STARTUP = "startup"


@frozen
class Streak:
    """How many results of a probe in a row were the same."""

    passed: bool = False
    count: int = 0


@frozen
class ProbeRecord:
    """Where a container stands. ``started``: the startup probe has passed, or there is none; ``ready``: the readiness
    probe says so, or there is none; ``served``: it was ready once; ``passed``: any probe has; ``failing``: the probe
    for which it is to be replaced. ``healthy_at`` is in epoch seconds, 0 when never.
    """

    started: bool = True
    ready: bool = True
    served: bool = False
    passed: bool = False
    failing: str = ""
    healthy_at: float = 0.0
    output: str = ""

    @property
    def accepting(self) -> bool:
        """Whether it may take traffic, as far as its probes go."""
        return self.started and self.ready

    @property
    def status(self) -> Health:
        """Its health: what only probes liveness is neither healthy nor not before the first result."""
        if self.failing:
            return Health.UNHEALTHY
        if not (self.started and (self.ready or self.served)):
            return Health.STARTING
        return Health.HEALTHY if self.passed else Health.NONE

    @property
    def reading(self) -> HealthReading:
        """What the planner is told."""
        said = self.output.removeprefix(f"{self.failing} probe:")
        trouble = describe_failure(f"{self.failing} probe", said) if self.failing else ""
        return HealthReading(self.status, self.healthy_at, self.accepting, trouble)


def begin(probes: Probes) -> ProbeRecord:
    """The record of a container that has just started."""
    return ProbeRecord(started=probes.startup is None, ready=probes.readiness is None)


def adopt(before: ProbeRecord, probes: Probes) -> ProbeRecord:
    """The record of a running container that is probed in another way from now on: it stays as ready as it was until
    the new probes have decided, so that a change of probes alone takes nothing out of traffic."""
    return ProbeRecord(
        started=before.started or probes.startup is None,
        ready=before.accepting or (before.started and probes.readiness is None),
        served=before.served or before.accepting,
        passed=before.passed,
        healthy_at=before.healthy_at,
    )


def resume(record: ProbeRecord, probes: Probes) -> ProbeRecord:
    """The record that an earlier agent left, as far as it speaks of probes that there still are."""
    failing = record.failing if probes.model_dump().get(record.failing) else ""
    started, ready = record.started or probes.startup is None, record.ready or probes.readiness is None
    return replace(record, started=started, ready=ready, failing=failing)


def count(probe: Probe, before: Streak, passed: bool) -> tuple[Streak, bool]:
    """The streak after one more result, and whether it is long enough to count."""
    streak = Streak(passed, before.count + 1 if before.passed is passed else 1)
    return streak, streak.count >= (probe.success_threshold if passed else probe.failure_threshold)


def judge(record: ProbeRecord, kind: Kind, passed: bool, now: float, output: str) -> ProbeRecord:
    """The record after a probe's result has become one that counts."""
    if not passed:
        failed = {"ready": False} if kind is Kind.READINESS else {"failing": kind.value}
        said = record.output if record.failing and kind is Kind.READINESS else output
        return replace(record, **failed, output=said)
    changes: dict[str, Any] = {"passed": True}
    if kind is Kind.STARTUP:
        changes["started"] = True
    if kind is Kind.READINESS:
        changes.update(ready=True, served=True)
    if record.failing == kind.value:
        changes["failing"] = ""
    after = replace(record, **changes)
    return replace(after, healthy_at=now) if after.status is Health.HEALTHY and not after.healthy_at else after


def encode_record(record: ProbeRecord) -> dict[str, Any]:
    """A record for the database; what a container said is not kept."""
    return {
        "started": record.started,
        "ready": record.ready,
        "served": record.served,
        "passed": record.passed,
        "failing": record.failing,
        "healthy_at": record.healthy_at,
    }


def decode_record(document: Mapping[str, Any]) -> ProbeRecord:
    """The record behind a document."""
    return ProbeRecord(
        started=bool(document["started"]),
        ready=bool(document["ready"]),
        served=bool(document["served"]),
        passed=bool(document["passed"]),
        failing=str(document["failing"]),
        healthy_at=float(document["healthy_at"]),
    )


def merge(one: HealthReading, other: HealthReading) -> HealthReading:
    """A container that has a healthcheck and probes: the worse of both counts."""
    both = {one.status, other.status}
    worst = (Health.UNHEALTHY, Health.STARTING, Health.HEALTHY)
    status = next((health for health in worst if health in both), Health.NONE)
    healthy_at = max(one.healthy_at, other.healthy_at) if status is not Health.STARTING else 0.0
    return HealthReading(status, healthy_at, one.accepting and other.accepting, one.trouble or other.trouble)

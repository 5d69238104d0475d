"""Healthchecks as Docker understands them: what to run, how often, and what its results mean. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agent.oci.imageconfig import ImageConfig
from agent.plan.observed import Health
from agent.telemetry.redaction import redact_text
from agent.values import frozen

DEFAULT_INTERVAL = 30.0
DEFAULT_TIMEOUT = 30.0
DEFAULT_START_INTERVAL = 5.0
DEFAULT_RETRIES = 3
SAID_LIMIT = 200
_NANOSECOND = 1e-9
_DEFAULT_SHELL = ("/bin/sh", "-c")


@frozen
class HealthPlan:
    """One container's healthcheck: arguments to run in it, seconds, and how many failures in a row are too many."""

    args: tuple[str, ...]
    interval: float = DEFAULT_INTERVAL
    timeout: float = DEFAULT_TIMEOUT
    start_period: float = 0.0
    start_interval: float = DEFAULT_START_INTERVAL
    retries: int = DEFAULT_RETRIES

    def compute_wait(self, status: Health, up: float) -> float:
        """Seconds until the next probe of a container that is up for ``up`` seconds."""
        return self.start_interval if status is Health.STARTING and up < self.start_period else self.interval


@frozen
class HealthRecord:
    """Where a container's health stands. ``streak`` counts failures in a row; times are epoch seconds."""

    status: Health = Health.STARTING
    streak: int = 0
    healthy_at: float = 0.0
    output: str = ""


def compute_record(plan: HealthPlan, before: HealthRecord, passed: bool, up: float, now: float) -> HealthRecord:
    """What one probe's result makes of it: a failure in the start period of a starting container does not count."""
    if passed:
        return HealthRecord(Health.HEALTHY, 0, before.healthy_at or now, before.output)
    if before.status is Health.STARTING and up < plan.start_period:
        return before
    streak = before.streak + 1
    status = Health.UNHEALTHY if streak >= plan.retries else before.status
    return HealthRecord(status, streak, before.healthy_at, before.output)


def compute_health_plan(document: str | None, image: ImageConfig | None) -> HealthPlan | None:
    """The healthcheck of a container, from the spec document it was made from, else its image; None without one."""
    wanted = _own_healthcheck(document)
    inherited = dict(image.healthcheck or {}) if image is not None else {}
    if wanted.get("disable"):
        return None
    shell = image.shell if image is not None and image.shell else _DEFAULT_SHELL
    args = _args(wanted.get("test") or inherited.get("Test") or (), shell)
    if not args:
        return None
    return HealthPlan(
        args=args,
        interval=_seconds(wanted, inherited, "interval", "Interval") or DEFAULT_INTERVAL,
        timeout=_seconds(wanted, inherited, "timeout", "Timeout") or DEFAULT_TIMEOUT,
        start_period=_seconds(wanted, inherited, "start_period", "StartPeriod"),
        start_interval=_seconds(wanted, inherited, "start_interval", "StartInterval") or DEFAULT_START_INTERVAL,
        retries=int(wanted.get("retries") or inherited.get("Retries") or DEFAULT_RETRIES),
    )


def _own_healthcheck(document: str | None) -> Mapping[str, Any]:
    found = json.loads(document).get("healthcheck") if document else None
    return found if isinstance(found, Mapping) else {}


def _seconds(wanted: Mapping[str, Any], inherited: Mapping[str, Any], name: str, image_name: str) -> float:
    own = wanted.get(name)
    return float(own) if own else float(inherited.get(image_name) or 0) * _NANOSECOND


def _args(test: Any, shell: tuple[str, ...]) -> tuple[str, ...]:
    """``CMD a b`` runs a b; ``CMD-SHELL text`` runs it in the image's shell; ``NONE`` and nothing: no check."""
    words = tuple(str(word) for word in test)
    if not words or words[0] == "NONE":
        return ()
    if words[0] == "CMD":
        return words[1:]
    return (*shell, words[1]) if words[0] == "CMD-SHELL" and len(words) > 1 else ()


def describe_failure(check: str, output: str) -> str:
    """What a container did that did not pass: ``failed its healthcheck (Connection refused)``; at most 200 characters
    of what the check said, on one line, secrets hidden, for it is kept."""
    said = redact_text(" ".join(output.split()))[:SAID_LIMIT]
    return f"failed its {check} ({said})" if said else f"failed its {check}"

"""From what a reconcile found to the conditions that people and programs read. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent.plan.actions import Hold, Plan
from agent.plan.crashloop import CRASH_LOOP
from agent.plan.observed import Health, ObservedContainer
from agent.values import frozen

MESSAGE_LIMIT = 4096
SLOTS_TOLD = 5
ROLLING_BACK = "RollingBack"
_FIRST = (CRASH_LOOP, ROLLING_BACK)  # reasons of a whole app: they stay while single tries fail and begin again
READY, RECONCILING, STALLED, HEALTHY = "Ready", "Reconciling", "Stalled", "Healthy"


@frozen
class Condition:
    """One condition. ``status`` is True, False or Unknown; ``since`` (epoch seconds) when it last changed;
    ``generation`` counts the revisions of the app that it has seen."""

    type: str
    status: str
    reason: str
    message: str
    generation: int = 0
    since: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The condition as a JSON object."""
        return {
            "type": self.type,
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
            "generation": self.generation,
            "since": self.since,
        }


@frozen
class Findings:
    """Everything the conditions of one app are made from. Texts are empty when there is nothing to say.

    ``looking``: all is as desired, and somebody asked whether an image should be another one by now.
    """

    plan: Plan
    containers: Sequence[ObservedContainer] = ()
    busy: int = 0
    invalid: str = ""
    blind: bool = False
    conflict: str = ""
    repeats: str = ""
    suspended: bool = False
    looking: bool = False
    names: str = ""


def compute_conditions(findings: Findings) -> tuple[Condition, ...]:
    """Ready, Reconciling, Stalled and Healthy of one app."""
    faults = [hold for hold in findings.plan.holds if hold.failing]
    faults.sort(key=lambda hold: _FIRST.index(hold.reason) if hold.reason in _FIRST else len(_FIRST))
    stalled = _stalled(findings, faults)
    return (
        _ready(findings, faults, stalled),
        _reconciling(findings),
        Condition(STALLED, "True", *stalled) if stalled else Condition(STALLED, "False", "NotStalled", ""),
        _healthy(findings.containers),
    )


def _stalled(findings: Findings, faults: Iterable[Hold]) -> tuple[str, str] | None:
    if findings.invalid:
        kept = "" if findings.blind else "\nthe last good version stays in force"
        return ("InvalidSpec", findings.invalid + kept)
    if findings.conflict:
        return ("PortConflict", findings.conflict)
    if findings.repeats:
        return ("PlanRepeats", findings.repeats)
    final = [hold for hold in faults if hold.final]
    return (final[0].reason, _join(final)) if final else None


def _ready(findings: Findings, faults: Sequence[Hold], stalled: tuple[str, str] | None) -> Condition:
    if stalled:
        return Condition(READY, "False", *stalled)
    if findings.suspended:
        return Condition(READY, "False", "Suspended", "taken down by holdfast down; sync or a change brings it back")
    if faults:
        return Condition(READY, "False", faults[0].reason, _join(faults))
    chosen = [hold for hold in findings.plan.holds if hold.chosen]
    if chosen:
        return Condition(READY, "False", chosen[0].reason, _join(chosen))
    if not findings.looking and (findings.plan.actions or findings.busy or findings.plan.holds):
        return Condition(READY, "False", "Reconciling", _progress(findings))
    if findings.blind:
        return Condition(READY, "Unknown", "NotRead", "the desired state has not been read yet")
    if findings.names and findings.containers:
        return Condition(READY, "False", "NamesUnavailable", findings.names)
    return Condition(READY, "True", "Converged", "everything is as desired")


def _reconciling(findings: Findings) -> Condition:
    moving = any(not hold.final and not hold.chosen for hold in findings.plan.holds)
    if findings.suspended or findings.repeats or not (findings.plan.actions or findings.busy or moving):
        return Condition(RECONCILING, "False", "Idle", "")
    return Condition(RECONCILING, "True", "Progressing", _progress(findings))


def _progress(findings: Findings) -> str:
    if findings.plan.holds:
        return _join(findings.plan.holds)
    count = max(len(findings.plan.actions), findings.busy)
    first = f": {findings.plan.actions[0].cause.message}" if findings.plan.actions else ""
    return f"{count} {'action' if count == 1 else 'actions'} to go{first}"


def _healthy(containers: Sequence[ObservedContainer]) -> Condition:
    checked = [container for container in containers if container.serving and container.health is not Health.NONE]
    sick = [container for container in checked if container.health is Health.UNHEALTHY]
    if sick:
        names = ", ".join(sorted({f"{container.app}-{container.service}-{container.slot}" for container in sick}))
        return Condition(HEALTHY, "False", "Unhealthy", f"failing healthchecks: {names}")
    if any(container.health is Health.STARTING for container in checked):
        return Condition(HEALTHY, "Unknown", "Starting", "healthchecks have not passed yet")
    if not checked:
        return Condition(HEALTHY, "True", "NoHealthchecks", "no container has a healthcheck")
    count = len(checked)
    passing = "1 container passes its healthcheck" if count == 1 else f"{count} containers pass their healthchecks"
    return Condition(HEALTHY, "True", "Healthy", passing)


def _join(holds: Iterable[Hold]) -> str:
    """Their texts, of each reason and service the first few: a service may have hundreds of replicas."""
    lines: list[str] = []
    counts: Counter[tuple[str, str]] = Counter()
    for message, key in {hold.message: (hold.reason, hold.service) for hold in holds}.items():
        counts[key] += 1
        if counts[key] <= SLOTS_TOLD:
            lines.append(message)
    for (reason, service), count in counts.items():
        if count > SLOTS_TOLD:
            lines.append(f"{count - SLOTS_TOLD} more of {service or 'the app'}: {reason}")
    return "\n".join(lines)[:MESSAGE_LIMIT]


def carry_over(
    before: Mapping[str, Condition], after: Iterable[Condition], generation: int, now: float
) -> tuple[dict[str, Condition], list[Condition]]:
    """The new conditions with their times, and those of them that say something else than before: another status or
    reason, or, of what somebody has to put right, another text. (Texts of what mends itself hold times and counts.)"""
    found: dict[str, Condition] = {}
    changed: list[Condition] = []
    for condition in after:
        old = before.get(condition.type)
        if old is not None and _says_the_same(old, condition, generation):
            found[condition.type] = old
            continue
        same_status = old is not None and old.status == condition.status
        since = old.since if old is not None and same_status else now
        found[condition.type] = replace(condition, generation=generation, since=since)
        another_text = condition.type == STALLED and old is not None and old.message != condition.message
        if old is None or not same_status or old.reason != condition.reason or another_text:
            changed.append(found[condition.type])
    return found, changed


def _says_the_same(old: Condition, new: Condition, generation: int) -> bool:
    said = (old.status, old.reason, old.message, old.generation)
    return said == (new.status, new.reason, new.message, generation)


def is_idle_talk(condition: Condition, before: Condition | None) -> bool:
    """Whether a change is not worth an event: that work goes on, or that what was never bad is still not bad."""
    good = condition.status == ("False" if condition.type == STALLED else "True")
    return condition.type == RECONCILING or (before is None and good and condition.type != READY)

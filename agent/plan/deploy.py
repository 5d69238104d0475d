"""A deploy as a state machine: one revision of an app taking the place of another, or being taken back.

    ROLLING --every changed service settled--> BAKING --watched long enough--> committed
    ROLLING, BAKING --too many failures--> REVERTING --all as before--> reverted
                                       \\-> PAUSED (failure_action pause)

Without a base there is nothing to go back to: then failures neither revert nor pause.

Failures that a service's configuration puts up with do not keep a deploy from its end: what failed is then started
again as ever. ``advance`` is pure and total; whoever calls it writes a new state down before anything is done because
of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from enum import StrEnum

from agent.plan.course import Progress
from agent.spec.model import UpdateConfig
from agent.values import frozen


class Stage(StrEnum):
    """Where a deploy stands. The last two are its ends."""

    ROLLING = "rolling"
    BAKING = "baking"
    PAUSED = "paused"
    REVERTING = "reverting"
    COMMITTED = "committed"
    REVERTED = "reverted"


@frozen
class Deploy:
    """``revision`` is to take the place of ``base`` (empty: there is nothing to go back to). ``services`` are those
    that it changes; ``began`` and ``baking_since`` are epoch seconds; ``reason`` and ``message`` say what went wrong.
    """

    revision: str
    base: str
    services: tuple[str, ...]
    began: float
    stage: Stage = Stage.ROLLING
    baking_since: float = 0.0
    reason: str = ""
    message: str = ""


def advance(
    deploy: Deploy, progress: Mapping[str, Progress], configs: Mapping[str, UpdateConfig], now: float
) -> tuple[Deploy, float | None]:
    """The state after what was seen, and when (epoch seconds) time alone would change it.

    ``progress`` is that of every wanted service, ``configs`` the update configuration of each changed one.
    """
    if now < deploy.began:  # the clock was set back: failures from now on count
        deploy = replace(deploy, began=now)
    match deploy.stage:
        case Stage.ROLLING | Stage.BAKING:
            return _advance_forward(deploy, progress, configs, now)
        case Stage.REVERTING if all(found.settled for found in progress.values()):
            return replace(deploy, stage=Stage.REVERTED), None
        case _:
            return deploy, None


def _advance_forward(
    deploy: Deploy, progress: Mapping[str, Progress], configs: Mapping[str, UpdateConfig], now: float
) -> tuple[Deploy, float | None]:
    failed = _judge(deploy, progress, configs)
    if failed is not None:
        return failed, None
    watched = [progress.get(name) for name in deploy.services if name in configs]
    if not all(found is not None and (found.settled or found.tried) for found in watched):
        return replace(deploy, stage=Stage.ROLLING, baking_since=0.0), None
    since = deploy.baking_since if deploy.stage is Stage.BAKING and deploy.baking_since <= now else now
    baking = replace(deploy, stage=Stage.BAKING, baking_since=since)
    due = compute_watch_end(baking, configs)
    if due > now:
        return baking, due
    return replace(baking, stage=Stage.COMMITTED, message=_describe_tolerated(deploy, progress)), None


def compute_watch_end(deploy: Deploy, configs: Mapping[str, UpdateConfig]) -> float:
    """When (epoch seconds) a deploy that is in place has been watched for long enough."""
    watches = (configs[name].monitor for name in deploy.services if name in configs)
    return deploy.baking_since + max(watches, default=0.0)


def _judge(deploy: Deploy, progress: Mapping[str, Progress], configs: Mapping[str, UpdateConfig]) -> Deploy | None:
    """The deploy that too many failures make of it; None while they are few enough."""
    broken = {
        name: progress[name].failed
        for name in deploy.services
        if name in configs and name in progress and _is_too_much(progress[name], configs[name])
    }
    actions = {configs[name].failure_action for name in broken} - {"continue"}
    if not actions or not deploy.base:
        return None
    message = "\n".join(_texts(broken.values()))
    if "rollback" in actions:
        return replace(deploy, stage=Stage.REVERTING, reason="DeployFailed", message=message)
    return replace(deploy, stage=Stage.PAUSED, reason="DeployFailed", message=message)


def _is_too_much(found: Progress, config: UpdateConfig) -> bool:
    return bool(found.failed) and len(found.failed) > config.max_failure_ratio * max(found.replicas, 1)


def _describe_tolerated(deploy: Deploy, progress: Mapping[str, Progress]) -> str:
    """Which failures were put up with; empty when there were none."""
    return "; ".join(
        f"{len(found.failed)} of {found.replicas} of {name} failed, which is put up with: {', '.join(found.failed)}"
        for name in deploy.services
        if (found := progress.get(name)) is not None and found.failed
    )


def _texts(found: Iterable[tuple[str, ...]]) -> list[str]:
    return [text for texts in found for text in texts]

"""How the containers of a service are exchanged: ``deploy.update_config``, ``rollback_config``, ``x-holdfast``."""

from __future__ import annotations

from typing import Any

from agent.spec.fields import Fields
from agent.spec.keys import CANARY, HOLDFAST_SERVICE, ROLLOUT, UPDATE_CONFIG
from agent.spec.model import DEFAULT_DEADLINE, DEFAULT_DRAIN, Canary, UpdateConfig
from agent.spec.probes import read_probes
from agent.spec.scalars import parse_number

_ORDERS = frozenset({"start-first", "stop-first"})
_FORWARD = frozenset({"pause", "continue", "rollback"})
_BACK = frozenset({"pause", "continue"})


def read_rollout(service: Fields, deploy: Fields | None) -> dict[str, Any]:
    """The fields ``update``, ``rollback``, ``canary``, ``deadline``, ``drain`` and ``probes`` of a service."""
    own = service.nested("x-holdfast", HOLDFAST_SERVICE)
    rollout = own.nested("rollout", ROLLOUT) if own else None
    drain = own.duration("drain") if own else None
    deadline = rollout.duration("deadline") if rollout else None
    if rollout is not None and deadline == 0:
        rollout.complain("deadline", "must be above 0")
    return {
        "update": _read_config(deploy, "update_config", _FORWARD, "rollback"),
        "rollback": _read_config(deploy, "rollback_config", _BACK, "continue"),
        "canary": _read_canary(rollout) if rollout else None,
        "deadline": deadline or DEFAULT_DEADLINE,
        "drain": DEFAULT_DRAIN if drain is None else drain,
        "probes": read_probes(own),
    }


def _read_config(deploy: Fields | None, name: str, actions: frozenset[str], default: str) -> UpdateConfig:
    """One of the two; what is not said is as in Compose, but for the action: what failed is taken back, and taking
    back goes on with what it can."""
    fields = deploy.nested(name, UPDATE_CONFIG) if deploy else None
    if fields is None:
        return UpdateConfig.model_validate({"failure_action": default})
    parallelism, delay, monitor = fields.integer("parallelism"), fields.duration("delay"), fields.duration("monitor")
    ratio = fields.parsed("max_failure_ratio", _parse_ratio, "a number from 0 to 1")
    return UpdateConfig.model_validate(
        {
            "parallelism": 1 if parallelism is None else parallelism,
            "delay": delay or 0.0,
            "failure_action": fields.choice("failure_action", actions) or default,
            "monitor": monitor if monitor is not None else 5.0,
            "max_failure_ratio": ratio or 0.0,
            "order": fields.choice("order", _ORDERS),
        }
    )


def _parse_ratio(text: str) -> float | None:
    number = parse_number(text)
    return number if number is not None and 0 <= number <= 1 else None


def _parse_share(text: str) -> float | None:
    percent = parse_number(text[:-1]) if text.endswith("%") else None
    return percent / 100 if percent is not None and 0 < percent <= 100 else None


def _read_canary(rollout: Fields) -> Canary | None:
    fields = rollout.nested("canary", CANARY)
    if fields is None:
        return None
    steps: list[float] = []
    for node, text in fields.texts("steps"):
        share = _parse_share(text)
        if share is None or (steps and share <= steps[-1]):
            fields.reading.complain(node, f"{fields.at('steps')}: must be growing shares such as 10%, 50%")
        else:
            steps.append(share)
    if not fields.node_of("steps"):
        fields.complain("steps", "must be given, such as [10%, 50%]")
    return Canary(steps=tuple(steps), pause=fields.duration("pause") or 0.0) if steps else None

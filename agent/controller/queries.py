"""What the API shows of the loop: status, containers, the pending plan. Reads memory only, changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from agent.controller.health.checks import Checks
from agent.controller.inventory import NO_READING, Inventory
from agent.controller.worker import AppWorker
from agent.engine.model import ContainerRecord, ContainerState
from agent.errors import Problem
from agent.plan.actions import Action, Hold, Plan
from agent.plan.history import SlotHistory
from agent.plan.observed import ObservedContainer, Phase
from agent.plan.restart import Verdict, compute_policy
from agent.telemetry.redaction import redact_field, redact_text


def render_status(workers: Iterable[AppWorker], health: Checks) -> dict[str, Any]:
    """``{"apps": [{name, revision, deploy, conditions, services, waiting}]}``; ``deploy``: {number, revision, stage,
    services} of the one that is under way, or null; ``waiting``: {container, id, answer} of each container that is not
    ready and whose checks have said why."""
    return {"apps": [_render_app(worker, health) for worker in workers]}


def _render_app(worker: AppWorker, health: Checks) -> dict[str, Any]:
    return {
        "name": worker.name,
        "revision": worker.desired.revision if worker.desired else "",
        "generation": worker.generation,
        "deploy": worker.deploys.describe(),
        "conditions": [condition.as_dict() for condition in worker.conditions.values()],
        "services": list(_render_services(worker)),
        "waiting": [
            {"container": f"{worker.name}-{container.service}-{container.slot}", "id": container.id, "answer": answer}
            for container in worker.observed
            if container.phase is Phase.RUNNING and (answer := health.answer(container.id))
        ],
    }


def _render_services(worker: AppWorker) -> Iterable[dict[str, Any]]:
    """What the host is to become now: that of the files or, when that was taken back, what is in force. Counts of
    current containers: those being replaced serve, but what is wanted is not there before it is."""
    desired = worker.aim.desired if worker.desired is not None else None
    if desired is None:
        return
    completed = _find_completed(worker)
    by_service: dict[str, list[ObservedContainer]] = {}
    for container in worker.observed:
        by_service.setdefault(container.service, []).append(container)
    for name, service in desired.app.services.items():
        mine = [container for container in by_service.get(name, ()) if container.slot <= service.replicas]
        done = [container for container in mine if container.id in completed]
        yield {
            "name": name,
            "desired": service.replicas,
            "running": len({container.slot for container in mine if container.phase is Phase.RUNNING}),
            "ready": len({container.slot for container in (*(c for c in mine if c.ready), *done)}),
            "completed": len({container.slot for container in done}),
            "image": desired.images[desired.image_keys[name]].reference,
            "ports": [f"{p.host_ip}:{p.published}->{p.target}/{p.protocol}" for p in service.ports],
        }


def _find_completed(worker: AppWorker) -> frozenset[str]:
    """The ids of the ended containers that have done all that is wanted of them."""
    desired = worker.aim.desired if worker.desired is not None else None
    if desired is None:
        return frozenset()
    digests = desired.digests(worker.aim.images)
    services = desired.app.services
    policies = {name: compute_policy(service.restart, name in desired.awaited) for name, service in services.items()}
    return frozenset(
        container.id
        for container in worker.observed
        if not container.alive
        and container.service in policies
        and container.digest == digests[container.service]
        and policies[container.service].judge(container, None) is Verdict.COMPLETE
    )


def render_containers(inventory: Inventory, health: Checks, workers: Mapping[str, AppWorker]) -> list[dict[str, Any]]:
    """The objects of ``ps --json``, in order of app, service, slot and age."""
    inventory.refresh()
    completed = frozenset().union(*map(_find_completed, workers.values()))
    rows = [_render_container(record, health, workers) for record in inventory.all()]
    for row in rows:
        row["completed"] = row["id"] in completed
    return sorted(rows, key=lambda row: (row["app"], row["service"], row["slot"], row["created"]))


def _render_container(record: ContainerRecord, health: Checks, workers: Mapping[str, AppWorker]) -> dict[str, Any]:
    owner = record.config.owner
    worker = workers.get(owner.app) if owner else None
    history = worker.slots.histories.get((owner.service, owner.slot)) if worker and owner else None
    same = history is not None and owner is not None and history.digest == owner.spec_digest
    end = record.exit
    reading = health.reading(record.id) if not record.state.ended else NO_READING
    return {
        "id": record.id,
        "name": record.name,
        "app": owner.app if owner else "",
        "service": owner.service if owner else "",
        "slot": owner.slot if owner else 0,
        "state": record.state.value,
        "health": reading.status.value,
        "accepting": reading.accepting and not record.state.ended,
        "answer": health.answer(record.id) if record.state is ContainerState.RUNNING else "",
        "pid": record.pid,
        "ip": record.ip,
        "image": record.config.image_name or record.config.image,
        "image_id": record.config.image,
        "revision": owner.revision if owner else "",
        "restarts": _count_restarts(record, history) if history is not None and same else 0,
        "created": record.created,
        "started": record.started,
        "exit": {"code": end.code, "signal": end.signal, "oom": end.oom, "at": end.at} if end else None,
        "cause": owner.cause if owner else "",
    }


def _count_restarts(record: ContainerRecord, history: SlotHistory) -> int:
    """How often the slot was filled again: an end after which nothing came is no restart."""
    ended = record.state.ended and record.id in history.counted
    return max(0, history.restarts - ended)


def render_plans(workers: Iterable[AppWorker], now: float) -> dict[str, Any]:
    """``{"apps": [{name, actions, holds, next_check, warnings}]}``; an app whose actions are empty is as desired or
    waits. Warnings are of its files: {file, line, column, message}."""
    return {"apps": [_render_plan(worker.compute_whole(now), worker.warnings) for worker in workers]}


def _render_plan(plan: Plan, warnings: Iterable[Problem]) -> dict[str, Any]:
    return {
        "name": plan.app,
        "actions": [_render_action(action) for action in plan.actions],
        "holds": [_render_hold(hold) for hold in plan.holds],
        "next_check": plan.next_check,
        "warnings": [warning._asdict() for warning in warnings],
    }


def _render_action(action: Action) -> dict[str, Any]:
    """Every field of the action, and what it acts on as ``subject``; secrets in changed fields are hidden."""
    shown = {field.name: getattr(action, field.name) for field in fields(action) if field.name != "cause"}
    cause = action.cause
    return {
        **shown,
        "kind": type(action).__name__,
        "subject": _subject(shown),
        "after": list(action.after),
        "cause": {
            "kind": cause.kind,
            "message": redact_text(cause.message),
            "changes": [
                {"path": change.path, "old": _hide(change.path, change.old), "new": _hide(change.path, change.new)}
                for change in cause.changes
            ],
        },
    }


def _subject(shown: Mapping[str, Any]) -> str:
    if "container" in shown:
        return f"{shown['service']}-{shown['slot']} ({str(shown['container'])[:12]})"
    return str(shown.get("name") or shown.get("key") or "")


def _hide(path: str, text: str | None) -> str | None:
    return None if text is None else str(redact_field(path.rpartition(".")[2], text))


def _render_hold(hold: Hold) -> dict[str, Any]:
    return {
        "reason": hold.reason,
        "message": redact_text(hold.message),
        "service": hold.service,
        "slot": hold.slot,
        "final": hold.final,
        "failing": hold.failing,
        "chosen": hold.chosen,
    }

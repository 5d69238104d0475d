"""From a name to its story: finds what is meant among what is there and what was, and tells how it stands now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent.controller.deploy.origins import find_origin
from agent.controller.inventory import Inventory
from agent.controller.telling.story import Step, Subject, tell_container, tell_group
from agent.controller.worker import AppWorker
from agent.engine.model import ContainerRecord, ContainerState
from agent.errors import Conflict, NotFound
from agent.telemetry.events import Event
from agent.telemetry.redaction import redact_text

_PREFIX = 4


class Explainer:
    """Answers ``why``; lives on the loop. ``workers`` are those of the controller, by app."""

    def __init__(self, inventory: Inventory, workers: Mapping[str, AppWorker]) -> None:
        self._inventory = inventory
        self._workers = workers

    def explain(self, target: str, events: Sequence[Event], now: float) -> list[Step]:
        """The story of a container (name, id or the beginning of one), of APP, SERVICE or APP/SERVICE.

        Raises NotFound, and Conflict for a name of several things.
        """
        self._inventory.refresh()
        subject = self._find_container(target, events) or self._find_group(target, events)
        if subject.id:
            return [*tell_container(subject, events), *self._now_container(subject, now)]
        return [*tell_group(subject, events), *self._now_group(subject, now)]

    def _find_container(self, target: str, events: Sequence[Event]) -> Subject | None:
        records = [record for record in self._inventory.all() if record.config.owner is not None]
        named = [record for record in records if target in (record.name, record.id)]
        if not named and len(target) >= _PREFIX:
            named = [record for record in records if record.id.startswith(target)]
        if len({record.name for record in named}) > 1:
            raise Conflict(f"{target!r} is the beginning of {len(named)} container ids", hint="give more of it")
        if named:
            return self._describe(max(named, key=lambda record: (_is_running(record), record.created)))
        for event in reversed(events):
            identity = str(event.details.get("id", ""))
            same = target == event.container or (len(target) >= _PREFIX and identity.startswith(target))
            if identity and event.kind == "container" and same:
                return self._describe_gone(event, identity, events)
        return None

    def _describe_gone(self, event: Event, identity: str, events: Sequence[Event]) -> Subject:
        """A container of which only events are left."""
        specs = (
            str(known.details["spec"])
            for known in events
            if known.details.get("id") == identity and "spec" in known.details
        )
        origin = self._find_origin(event.app, event.service, next(specs, ""))
        return Subject(event.app, event.service, event.container, identity, origin=origin)

    def _find_origin(self, app: str, service: str, digest: str) -> Mapping[str, Any]:
        worker = self._workers.get(app)
        origin = find_origin(worker.deploys.revisions, service, digest) if worker is not None and digest else None
        return origin.as_details() if origin is not None else {}

    def _describe(self, record: ContainerRecord) -> Subject:
        owner = record.config.owner
        assert owner is not None
        details = self._find_origin(owner.app, owner.service, owner.spec_digest)
        cause = redact_text(owner.cause)
        return Subject(owner.app, owner.service, record.name, record.id, cause, record.created, details)

    def _find_group(self, target: str, events: Sequence[Event]) -> Subject:
        pairs = {(event.app, event.service) for event in events if event.app}
        for name, worker in self._workers.items():
            services = worker.desired.app.services if worker.desired is not None else ()
            pairs |= {(name, ""), *((name, service) for service in services)}
        app, _, service = target.partition("/")
        if service and (app, service) in pairs:
            return Subject(app, service)
        if any(known == target for known, _ in pairs):
            return Subject(target)
        apps = sorted({known for known, service in pairs if service == target})
        if len(apps) > 1:
            shown = ", ".join(f"{known}/{target}" for known in apps)
            raise Conflict(f"several apps have a service {target}", hint=f"say which: {shown}")
        if not apps:
            raise NotFound(
                f"nothing is known of {target}", hint="holdfast ps and holdfast events show what there is, and was"
            )
        return Subject(apps[0], target)

    def _now_container(self, subject: Subject, now: float) -> Iterable[Step]:
        record = self._inventory.get(subject.id)
        if record is None:
            yield Step(now, "now", f"{subject.name} ({subject.id[:12]}) is gone")
        else:
            yield Step(now, "now", f"{record.name} ({record.id[:12]}) is {record.state.value}")

    def _now_group(self, subject: Subject, now: float) -> Iterable[Step]:
        for record in self._inventory.of_app(subject.app):
            owner = record.config.owner
            if owner is None or (subject.service and owner.service != subject.service):
                continue
            origin = self._describe(record).origin
            number = f" of revision {origin['number']}" if origin.get("number") else ""
            place = f" ({origin['file']}:{origin['line']})" if origin.get("line") else ""
            text = f"{record.name} ({record.id[:12]}){number}{place} is {record.state.value}"
            yield Step(
                now, "now", text, {"id": record.id, "service": owner.service, "state": record.state.value, **origin}
            )
        worker = self._workers.get(subject.app)
        if worker is None:
            yield Step(now, "now", f"app {subject.app} is gone")
            return
        ready = worker.conditions.get("Ready")
        if ready is not None:
            text = redact_text(f"app {subject.app}: Ready is {ready.status} ({ready.reason}). {ready.message}".strip())
            yield Step(now, "now", text, {"condition": "Ready", "status": ready.status, "reason": ready.reason})


def _is_running(record: ContainerRecord) -> bool:
    return record.state is ContainerState.RUNNING

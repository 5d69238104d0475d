"""Which healthcheck and which probes each running container of an app has: found anew whenever the app is planned."""

from __future__ import annotations

from agent.controller.deploy.aims import Aim
from agent.controller.health.healthplan import HealthPlan, compute_health_plan
from agent.controller.parts import Shared
from agent.engine.model import ContainerRecord, ContainerState
from agent.errors import HoldfastError
from agent.plan.wants import DesiredApp


def watch_containers(app: str, shared: Shared, desired: DesiredApp | None, aim: Aim) -> None:
    """Have every running container checked: by the healthcheck it was made with, and by the probes that its service has
    now, so that a change of these takes effect on what runs. While a deploy is under way what is still of the old spec
    has the probes of that; when nobody knows what is desired, all stays as it is."""
    digests = aim.desired.digests(aim.images) if aim.older is not None and aim.desired is not None else {}
    for record in shared.inventory.of_app(app):
        if record.state is not ContainerState.RUNNING or record.config.owner is None:
            continue
        if not shared.health.knows(record.id):
            shared.health.watch(record, _health_plan(record, shared, desired))
        if aim.desired is not None:
            owner = record.config.owner
            outdated = aim.older is not None and owner.spec_digest != digests.get(owner.service)
            old = aim.older.app.services.get(owner.service) if outdated and aim.older is not None else None
            service = old or aim.desired.app.services.get(owner.service)
            shared.health.probe(record, service.probes if service is not None else None)


def _health_plan(record: ContainerRecord, shared: Shared, desired: DesiredApp | None) -> HealthPlan | None:
    try:
        image = shared.engine.images.config(record.config.image)
    except HoldfastError:
        image = None
    return compute_health_plan(_document(record, shared, desired), image)


def _document(record: ContainerRecord, shared: Shared, desired: DesiredApp | None) -> str | None:
    """The spec a container was made from; should that be lost, the service as it is wanted now."""
    owner = record.config.owner
    found = shared.specs.texts.get(owner.spec_digest) if owner else None
    if found is None and owner and desired is not None and owner.service in desired.app.services:
        return desired.document(owner.service, record.config.image)
    return found

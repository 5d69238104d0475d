"""Short ways to say what is desired and what is there."""

from __future__ import annotations

from typing import Any

from agent.plan.history import ContainerExit
from agent.plan.observed import Health, ImageState, ObservedApp, ObservedContainer, Phase
from agent.plan.wants import DesiredApp
from agent.spec.model import App

IMAGE = "sha256:" + "1" * 64
NOW = 1000.0


def desired(services: dict[str, dict[str, Any]], **extra: Any) -> DesiredApp:
    filled = {name: {"name": name, "image": f"{name}:1", **value} for name, value in services.items()}
    return DesiredApp(App.model_validate({"name": "shop", "file": "shop.yaml", "services": filled, **extra}), "r1")


def images(app: DesiredApp, **changes: Any) -> dict[str, ImageState]:
    return {key: ImageState(**{"id": IMAGE, "current": True, **changes}) for key in app.images}


def digest(app: DesiredApp, service: str = "web") -> str:
    return app.digests(images(app))[service]


def container(of: DesiredApp | None, slot: int = 1, service: str = "web", **changes: Any) -> ObservedContainer:
    """A running container as desired, unless ``changes`` say something else."""
    fields: dict[str, Any] = {
        "id": f"{service}{slot}",
        "app": "shop",
        "service": service,
        "slot": slot,
        "digest": digest(of, service) if of else "sha256:old",
        "phase": Phase.RUNNING,
        "health": Health.NONE,
        "image": IMAGE,
        "created": NOW - 60,
        "started": NOW - 60,
        "networks": frozenset({"shop_default"}),
    }
    return ObservedContainer(**{**fields, **changes})


def ended(
    app: DesiredApp, slot: int = 1, service: str = "web", code: int | None = 1, **changes: Any
) -> ObservedContainer:
    fields = {"phase": Phase.EXITED, "exit": ContainerExit(code, at=NOW), **changes}
    return container(app, slot, service, **fields)


def observed(app: DesiredApp | None, *containers: ObservedContainer, **changes: Any) -> ObservedApp:
    fields: dict[str, Any] = {
        "name": "shop",
        "containers": containers,
        "images": images(app) if app else {},
        "networks": frozenset({"shop_default"}),
    }
    return ObservedApp(**{**fields, **changes})

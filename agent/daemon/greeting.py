"""What a newcomer is told once everything is up for the first time: what runs, and what to try."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.controller.controller import Controller
from agent.settings import DEFAULT_RUN_ROOT, Settings
from agent.telemetry.logging import get_logger

_PATIENCE_SECONDS = 600.0


async def greet(controller: Controller, settings: Settings) -> None:
    """Log it when the host is first as desired; nothing is said when that takes very long."""
    if not await controller.wait_converged(_PATIENCE_SECONDS):
        return
    log = get_logger("agent")
    for line in render_greeting(controller.status(), settings):
        log.info(line)


def render_greeting(status: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """The lines; pure."""
    services = [(app["name"], service) for app in status["apps"] for service in app["services"]]
    if not services:
        yield f"nothing is wanted yet: put a Compose file into {settings.state}"
        return
    running = sum(service["running"] for _, service in services)
    yield f"up: {len(status['apps'])} apps, {len(services)} services, {running} containers"
    for app, service in services:
        ports = f" on {', '.join(service['ports'])}" if service["ports"] else ""
        yield f"    {app}/{service['name']}: {service['ready']} of {service['desired']} ready{ports}"
    host = "" if settings.run_root == DEFAULT_RUN_ROOT and not settings.hosts else f" --host {settings.api_hosts[0]}"
    yield "try:"
    yield from _render_requests(services)
    yield f"    holdfast status{host}"
    app, service = max(services, key=lambda pair: pair[1]["desired"])
    yield f"    edit replicas of {service['name']} in {settings.state}, and see: holdfast ps{host}"
    yield f"    holdfast exec{host} {app}-{service['name']}-1 kill 1    (it is replaced at once)"


def _render_requests(services: list[tuple[str, Any]]) -> Iterator[str]:
    for _, service in services:
        for port in service["ports"]:
            address, _, rest = port.partition("->")
            if rest.endswith("/tcp"):
                yield f"    curl http://{address.replace('0.0.0.0', '127.0.0.1')}/"

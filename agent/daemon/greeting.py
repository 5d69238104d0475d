"""What a newcomer is told once everything is up for the first time: what runs, and what to try."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

from agent.controller.controller import Controller
from agent.settings import DEFAULT_RUN_ROOT, Settings
from agent.telemetry.logging import get_logger

_PATIENCE_SECONDS = 600.0


async def greet(controller: Controller, settings: Settings) -> None:
    """Log it when all is first in place; nothing is said when that takes very long."""
    if not await controller.wait_in_place(_PATIENCE_SECONDS):
        return
    log = get_logger("agent")
    program = sys.argv[0] if Path(sys.argv[0]).name == "holdfast" else "holdfast"
    for line in render_greeting(controller.status(), settings, program):
        log.info(line)


def render_greeting(status: Mapping[str, Any], settings: Settings, program: str) -> Iterator[str]:
    """The lines; pure. ``program`` is how the reader calls this program."""
    services = [(app["name"], service) for app in status["apps"] for service in app["services"]]
    if not services:
        yield f"nothing is wanted yet: put a Compose file into {settings.state}"
        return
    running = sum(service["running"] for _, service in services)
    yield f"up: {_count(status['apps'], 'app')}, {_count(services, 'service')}, {running} containers"
    for app, service in services:
        ports = f" on {', '.join(service['ports'])}" if service["ports"] else ""
        yield f"    {app}/{service['name']}: {service['ready']} of {service['desired']} ready{ports}"
    host = "" if settings.run_root == DEFAULT_RUN_ROOT and not settings.hosts else f" --host {settings.api_hosts[0]}"
    yield "try:"
    yield from _render_requests(services)
    yield f"    {program} status{host}"
    app, service = max(services, key=lambda pair: pair[1]["desired"])
    yield f"    edit replicas of {service['name']} in {settings.state}, and see: {program} ps{host}"
    yield f"    {program} exec{host} {app}-{service['name']}-1 kill 1    (it is replaced at once)"


def _count(things: Sized, noun: str) -> str:
    return f"{len(things)} {noun}" if len(things) == 1 else f"{len(things)} {noun}s"


def _render_requests(services: list[tuple[str, Any]]) -> Iterator[str]:
    for _, service in services:
        for port in service["ports"]:
            address, _, rest = port.partition("->")
            if rest.endswith("/tcp"):
                yield f"    curl http://{address.replace('0.0.0.0', '127.0.0.1')}/"

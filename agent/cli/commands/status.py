"""status: is everything as the state directory wants it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.cli.client import Client
from agent.cli.declare import command, of_type, option
from agent.cli.main import DONE, PENDING
from agent.cli.options import host_option, json_option
from agent.cli.output import paint, print_json, print_table, safe

_GOOD = {"Ready": "True", "Healthy": "True", "Reconciling": "False", "Stalled": "False"}
WAITING_SHOWN = 5
_TOLD = ("CrashLoop", "RolledBack", "RollingBack")  # `why` tells more of these
_EXPLAINED = ("RolledBack", "RolloutPaused")  # they say themselves which command helps


@command(short_help="Show apps, services and whether all is as wanted.")
@option(
    "--wait",
    metavar="SECONDS",
    type=of_type("FloatRange", 0, 86400),
    help="Wait so long until it is, also for the agent; no longer when only you can help: a deploy was taken back.",
)
@json_option
@host_option
def status(wait: float | None, as_json: bool, host: str) -> int:
    """Show apps, services and conditions; exit 0 when all is as wanted, else 2.

    \b
    holdfast status
    holdfast status --wait 60 && echo up
    holdfast status --json | jq '.apps[].conditions'
    """
    client = Client(host)
    found = client.get("/status", wait=wait if not wait else client.await_agent(wait))
    if as_json:
        print_json(found)
    else:
        print_status(found)
    return DONE if found["converged"] else PENDING


def print_status(found: dict[str, Any]) -> None:
    """The services as a table, then every condition that is not as it should be."""
    rows = [_describe_service(app, service) for app in found["apps"] for service in app.get("services", ())]
    if rows:
        print_table(("APP", "SERVICE", "DESIRED", "RUNNING", "READY", "IMAGE"), rows)
    for app in found["apps"]:
        _print_deploy(app)
        _print_conditions(app["name"], app.get("conditions", ()))
        _print_waiting(app)
    for part in ("source", "network", "names"):
        if found.get(part):
            print(f"{part}: {paint(safe(found[part]), 'red')}")
    if found.get("suspended"):
        print("held down by `holdfast down`; `holdfast sync` brings everything up again")
    elif not found["apps"]:
        print("no apps: put a Compose file into the state directory")
    elif found["converged"]:
        print(paint("converged", "green"))
    else:
        print(paint("not converged", "yellow"))


def _describe_service(app: dict[str, Any], service: dict[str, Any]) -> tuple[str, ...]:
    counts = [service["desired"], service["running"], service["ready"]]
    colour = "green" if counts[2] >= counts[0] else "yellow"
    done = int(service.get("completed") or 0)
    ready = f"{counts[2]} ({done} completed)" if done < counts[0] else "completed"
    cells = [str(counts[0]), str(counts[1]), paint(ready if done else str(counts[2]), colour)]
    return (safe(app["name"]), safe(service["name"]), *cells, safe(service.get("image") or "-"))


def _print_deploy(app: Mapping[str, Any]) -> None:
    """What is on its way; of one that is watched, paused or taken back the conditions say it."""
    deploy = app.get("deploy") or {}
    if deploy.get("stage") == "rolling":
        name = f"revision {deploy['number']} ({deploy['revision'].removeprefix('sha256:')[:12]})"
        services = ", ".join(map(safe, deploy["services"])) or "no container"
        print(f"{safe(app['name'])}: {paint(name, 'blue')} is being deployed; it changes {services}")


def _print_conditions(app: str, conditions: Sequence[Mapping[str, Any]]) -> None:
    """Those that are not as they should be, the gravest first, and no text twice."""
    said: set[str] = set()
    for condition in sorted(conditions, key=lambda condition: condition["type"] != "Stalled"):
        bad = condition["status"] != _GOOD.get(condition["type"], condition["status"])
        lines = [line for line in safe(condition.get("message") or "").splitlines() if line not in said]
        if bad and (lines or not condition.get("message")):
            said.update(lines)
            _print_condition(app, condition, lines or [""])
    if any(condition.get("reason") in _TOLD for condition in conditions):
        print(f"    what led to it, and its last lines: holdfast why {safe(app)}")
    stalled = [found for found in conditions if found["type"] == "Stalled" and found["status"] == "True"]
    if any(found.get("reason") not in _EXPLAINED for found in stalled):
        print("    put that right, or, if it was put right elsewhere, run: holdfast sync")


def _print_waiting(app: Mapping[str, Any]) -> None:
    """What the checks of containers that are not ready say, unless a condition has said it."""
    said = "\n".join(str(condition.get("message") or "") for condition in app.get("conditions", ()))
    waiting = [one for one in app.get("waiting", ()) if f"{one['container']} {one['answer']}" not in said]
    for one in waiting[:WAITING_SHOWN]:
        print(f"    {safe(one['container'])} ({one['id'][:12]}) {safe(one['answer'])}")
    if len(waiting) > WAITING_SHOWN:
        print(f"    and {len(waiting) - WAITING_SHOWN} more are not ready: holdfast ps")


def _print_condition(app: str, condition: Mapping[str, Any], lines: Sequence[str]) -> None:
    colour = "red" if condition["type"] == "Stalled" else "yellow"
    head = f"{condition['type']}={condition['status']} {condition.get('reason', '')}"
    print(f"{safe(app)}: {paint(safe(head), colour)}: {lines[0]}")
    for line in lines[1:]:
        print(f"    {line}")

"""plan: what the agent would do next, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from agent.cli.client import Client
from agent.cli.main import DONE, PENDING
from agent.cli.options import host_option, json_option
from agent.cli.output import describe_change, paint, print_json, render_problem, safe

_SIGNS = {"Start": ("+", "green"), "Ensure": ("+", "green"), "Stop": ("-", "red"), "Remove": ("-", "red")}


@click.command(short_help="Show what is to be done, why, and what cannot be done.")
@json_option
@host_option
def plan(as_json: bool, host: str) -> int:
    """Show what is to be done, why, and which fields differ, and what cannot be done; exit 0 when there is neither.

    \b
    holdfast plan
    holdfast plan --json | jq '.apps[].actions[].cause'
    """
    found = Client(host).get("/plan")
    count = sum(len(app.get("actions", ())) for app in found["apps"])
    faults = [part for part in ("source", "network", "names") if found.get(part)]
    troubled = bool(faults or any(app.get("holds") for app in found["apps"]))
    if as_json:
        print_json(found)
    else:
        for app in found["apps"]:
            for line in _describe_app(app):
                print(line)
        for part in faults:
            print(f"{part}: {paint(safe(found[part]), 'red')}")
        print(_summarise(count, troubled))
    return PENDING if count or troubled else DONE


def _summarise(count: int, troubled: bool) -> str:
    if count:
        return f"{count} action{'s' if count != 1 else ''} pending"
    return "nothing can be done at the moment" if troubled else "nothing to do"


def _describe_app(app: Mapping[str, Any]) -> Iterator[str]:
    actions, holds, warnings = (app.get(part, ()) for part in ("actions", "holds", "warnings"))
    if not actions and not holds and not warnings:
        return
    yield paint(safe(f"app {app['name']}"), "blue")
    for action in actions:
        yield from _describe_action(action)
    for hold in holds:
        message = safe(hold.get("message", "")).replace("\n", "\n      ")
        yield f"  {paint('!', 'yellow')} {safe(hold.get('reason', ''))}: {message}"
    for warning in warnings:
        yield f"  {paint('warning', 'yellow')} {render_problem(warning)}"


def _describe_action(action: Mapping[str, Any]) -> Iterator[str]:
    kind = str(action.get("kind", ""))
    sign, colour = next((look for verb, look in _SIGNS.items() if kind.startswith(verb)), ("~", "yellow"))
    cause = action.get("cause") or {}
    subject = action.get("subject") or action.get("name") or action.get("container") or action.get("key") or ""
    later = " (later)" if action.get("after") else ""
    yield f"  {paint(sign, colour)} {safe(kind)} {safe(str(subject))}{paint(later, 'grey')}"
    yield f"      because {safe(str(cause.get('message', '')))}"
    for change in cause.get("changes", ()):
        yield from describe_change(change)

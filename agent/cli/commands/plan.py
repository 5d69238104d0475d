"""plan: what the agent would do next, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from agent.cli.client import Client
from agent.cli.declare import command, option
from agent.cli.main import DONE, PENDING
from agent.cli.options import host_option, json_option
from agent.cli.output import describe_change, paint, print_json, render_problem, safe

SLOTS_TOLD = 5
_SIGNS = {"Start": ("+", "green"), "Ensure": ("+", "green"), "Stop": ("-", "red"), "Remove": ("-", "red")}


@command(short_help="Show what is to be done, why, and what cannot be done.")
@option("--apply", "approved", metavar="HASH", help="Approve the plan of this hash, if it still is the plan.")
@json_option
@host_option
def plan(approved: str | None, as_json: bool, host: str) -> int:
    """Show what is to be done, why, and which fields differ, and what cannot be done; exit 0 when there is neither.

    Each app's plan has a hash, and all together have one. With --apply HASH that plan is approved: an app whose file
    says `x-holdfast: {apply: manual}` deploys exactly the revision that it shows, and a paused app is resumed. If the
    plan is another one by now, that is an error which says what differs, and nothing is done.

    \b
    holdfast plan
    holdfast plan --apply 0f3a9c1d2b4e5f60
    holdfast plan --json | jq '.apps[].actions[].cause'
    """
    if approved is not None:
        return _apply(approved, as_json, host)
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
        if (count or troubled) and found.get("hash"):
            print(f"plan {found['hash']}")
    return PENDING if count or troubled else DONE


def _apply(name: str, as_json: bool, host: str) -> int:
    found = Client(host).post("/plan/approve", hash=name)
    if as_json:
        print_json(found)
    else:
        print("\n".join(f"{safe(app)} is approved" for app in found["approved"]) or "nothing waits for an approval")
    return DONE


def _summarise(count: int, troubled: bool) -> str:
    if count:
        return f"{count} action{'s' if count != 1 else ''} pending"
    return "nothing can be done at the moment" if troubled else "nothing to do"


def _describe_app(app: Mapping[str, Any]) -> Iterator[str]:
    actions, holds, warnings = (app.get(part, ()) for part in ("actions", "holds", "warnings"))
    if not actions and not holds and not warnings:
        return
    shown = f"  plan {app['hash']}" if app.get("hash") else ""
    yield paint(safe(f"app {app['name']}"), "blue") + paint(safe(shown), "grey")
    for _, group in groupby(actions, key=lambda action: (action.get("service"), action.get("cause") or {})):
        yield from _describe_actions(list(group))
    counts: Counter[tuple[str, str]] = Counter()
    for hold in holds:
        key = (str(hold.get("reason", "")), str(hold.get("service", "")))
        counts[key] += 1
        message = safe(hold.get("message", "")).replace("\n", "\n      ")
        if counts[key] <= SLOTS_TOLD:
            yield f"  {paint('!', 'yellow')} {safe(key[0])}: {message}"
    for (reason, service), count in counts.items():
        if count > SLOTS_TOLD:
            yield f"  {paint('!', 'yellow')} {safe(reason)}: {count - SLOTS_TOLD} more of {safe(service or 'the app')}"
    for warning in warnings:
        yield f"  {paint('warning', 'yellow')} {render_problem(warning)}"


def _describe_actions(actions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Actions in a row that have one cause, and then that cause."""
    for action in actions:
        kind = str(action.get("kind", ""))
        sign, colour = next((look for verb, look in _SIGNS.items() if kind.startswith(verb)), ("~", "yellow"))
        subject = action.get("subject") or action.get("name") or action.get("container") or action.get("key") or ""
        later = " (later)" if action.get("after") else ""
        yield f"  {paint(sign, colour)} {safe(kind)} {safe(str(subject))}{paint(later, 'grey')}"
    cause = actions[0].get("cause") or {}
    yield f"      because {safe(str(cause.get('message', '')))}"
    for change in cause.get("changes", ()):
        yield f"      {describe_change(change)}"

"""events: what happened, and what happens."""

from __future__ import annotations

import json
import time
from typing import Any

from agent.cli.client import Client
from agent.cli.declare import command, of_type, option
from agent.cli.main import DONE
from agent.cli.options import host_option, json_option
from agent.cli.output import paint, render_time, safe
from agent.cli.since import parse_since

_BAD = ("Failed", "Killed", "Unhealthy", "Stalled", "Invalid", "Lost", "OutOfMemory", "CrashLoop", "Wedged")


@command()
@option("-f", "--follow", is_flag=True, help="Go on as they happen.")
@option("--tail", metavar="N", type=of_type("IntRange", 0), default=100, show_default=True, help="The last N first.")
@option("--since", metavar="TIME", help="Only from then on: 10m, 2h, RFC 3339 or unix time.")
@json_option
@host_option
def events(follow: bool, tail: int, since: str | None, as_json: bool, host: str) -> int:
    """Show what happened: starts, exits, pulls, changes of condition.

    \b
    holdfast events --since 1h
    holdfast events -f --json       one JSON object a line
    """
    start = parse_since(since, time.time()) if since else None
    for event in Client(host).stream("GET", "/events", follow=follow, tail=tail, since=start):
        print(json.dumps(event) if as_json else _describe(event), flush=follow)
    return DONE


def _describe(event: dict[str, Any]) -> str:
    subject = event["container"] or "/".join(filter(None, (event["app"], event["service"]))) or "agent"
    reason = event["reason"] or event["kind"]
    colour = "red" if any(word in reason for word in _BAD) else "cyan"
    message = safe(event["message"]).replace("\n", "\n    ")
    return (
        f"{paint(render_time(event['at']), 'grey')}  {paint(safe(reason), colour)}  {safe(subject)}  {message}".rstrip()
    )

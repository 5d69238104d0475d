"""why: what led to something being as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.cli.client import Client
from agent.cli.declare import argument, command
from agent.cli.main import DONE
from agent.cli.options import host_option, json_option
from agent.cli.output import describe_change, paint, print_json, render_time, safe

_COLOURS = {"exit": "red", "drift": "red", "rollback": "red", "crash-loop": "red", "start": "green", "now": "blue"}


@command(short_help="Tell why a container, service or app is as it is.")
@argument("target", metavar="CONTAINER|SERVICE|APP")
@json_option
@host_option
def why(target: str, as_json: bool, host: str) -> int:
    """Tell the story of a container, a service or an app: which revision, file and line asked for it and what that
    changed, what was planned because of it, and its start, health, end, restart, replacement or rollback.

    Works for containers that are gone, as long as events are kept (the last 2000). APP/SERVICE says which of several.

    \b
    holdfast why shop-web-1
    holdfast why shop/web
    holdfast why --json 3f2a91c04b77 | jq -r '.[].text'
    """
    steps = Client(host).get("/why", target=target)
    if as_json:
        print_json(steps)
        return DONE
    for step in steps:
        for line in _describe(step):
            print(line)
    return DONE


def _describe(step: Mapping[str, Any]) -> Iterator[str]:
    lines = safe(str(step["text"])).splitlines() or [""]
    kind = paint(f"{safe(str(step['kind'])):<11}", _COLOURS.get(str(step["kind"]), "cyan"))
    yield f"{paint(render_time(step['at']), 'grey')}  {kind} {lines[0]}"
    for line in lines[1:]:
        yield f"    {line}"
    if step["kind"] == "revision":
        for change in step["details"].get("changes", ()):
            yield f"      {describe_change(change)}"

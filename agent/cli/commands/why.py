"""why: what led to something being as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent.cli.client import Client
from agent.cli.declare import argument, command, option
from agent.cli.digest import is_group, render_digest
from agent.cli.main import DONE
from agent.cli.options import host_option, json_option
from agent.cli.output import describe_change, paint, print_json, render_time, safe

_COLOURS = {"exit": "red", "drift": "red", "rollback": "red", "crash-loop": "red", "start": "green", "now": "blue"}


@command(short_help="Tell why a container, service or app is as it is.")
@argument("target", metavar="CONTAINER|SERVICE|APP")
@option("--all", "everything", is_flag=True, help="Tell every step, also of deploys before the last two.")
@json_option
@host_option
def why(target: str, everything: bool, as_json: bool, host: str) -> int:
    """Tell the story of a container, a service or an app: which revision, file and line asked for it and what that
    changed, what was planned because of it, and its start, health, end, restart, replacement or rollback.

    Works for containers that are gone, as long as events are kept (the last 2000). APP/SERVICE says which of several.
    Of an app or a service the last two deploys are told, and of what was done to many containers alike only a part.

    \b
    holdfast why shop-web-1
    holdfast why shop/web
    holdfast why --all shop
    holdfast why --json 3f2a91c04b77 | jq -r '.[].text'
    """
    steps = Client(host).get("/why", target=target)
    if as_json:
        print_json(steps)
        return DONE
    lines = render_digest(steps, target) if is_group(steps) and not everything else _render_all(steps)
    for line in lines:
        print(line)
    return DONE


def _render_all(steps: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for step in steps:
        yield from _describe(step)


def _describe(step: Mapping[str, Any]) -> Iterator[str]:
    lines = safe(str(step["text"])).splitlines() or [""]
    kind = paint(f"{safe(str(step['kind'])):<11}", _COLOURS.get(str(step["kind"]), "cyan"))
    yield f"{paint(render_time(step['at']), 'grey')}  {kind} {lines[0]}"
    for line in lines[1:]:
        yield f"    {line}"
    if step["kind"] == "revision":
        for change in step["details"].get("changes", ()):
            yield f"      {describe_change(change)}"

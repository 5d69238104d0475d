"""sync and down: the two commands that make the agent act."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from agent.cli.client import Client
from agent.cli.commands.status import print_status
from agent.cli.declare import command
from agent.cli.main import DONE, PENDING
from agent.cli.options import host_option, json_option, wait_option
from agent.cli.output import print_json, safe

START_SECONDS = 10.0


@command(short_help="Read the state directory and reconcile now.")
@wait_option(
    "Wait so long until everything is as wanted, and up to 10 s for an agent that is starting; no longer when a deploy "
    "was taken back; 0 does not wait."
)
@json_option
@host_option
def sync(wait: float, as_json: bool, host: str) -> int:
    """Read the state directory and reconcile now; exit 0 when all is as wanted, else 2.

    \b
    holdfast sync
    holdfast sync --wait 0
    """
    client = Client(host)
    patience = min(wait, START_SECONDS)
    found = client.post("/sync", wait=wait - patience + client.await_agent(patience))
    if as_json:
        print_json(found)
    else:
        print_status(found)
    return DONE if found["converged"] else PENDING


@command(short_help="Stop and remove all containers and networks, keep volumes.")
@json_option
@host_option
def down(as_json: bool, host: str) -> int:
    """Stop and remove everything the agent owns: containers, networks, rules. Volumes and images stay.

    It stays down, also when the agent starts again, until `holdfast sync` or a change in the state directory.

    \b
    holdfast down
    """
    stream = Client(host).stream("POST", "/down", progress=True)
    removed = _drain(stream) if as_json else _show(stream)
    if as_json:
        print_json({"removed": removed})
    elif not removed:
        print("nothing to remove")
    return DONE


def _drain(stream: Iterator[dict[str, Any]]) -> list[str]:
    return [name for document in stream for name in document.get("removed", ())]


def _show(stream: Iterator[dict[str, Any]]) -> list[str]:
    """What is being stopped to standard error, at once; what is removed to standard output, as it goes."""
    said: list[str] = []
    for document in stream:
        if document.get("stopping"):
            print(f"stopping {', '.join(map(safe, document['stopping']))}", file=sys.stderr, flush=True)
        step = document.get("progress", {})
        if step.get("state") == "stopped":
            print(f"stopped {safe(step['container'])}", file=sys.stderr, flush=True)
        gone = [step["container"]] if step.get("state") == "removed" else document.get("removed", ())
        for name in gone:
            if name not in said:
                said.append(name)
                print(f"removed {safe(name)}", flush=True)
    return said

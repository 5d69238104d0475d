"""ps, version: one question, one table."""

from __future__ import annotations

from typing import Any

from agent import __version__
from agent.cli.client import AgentUnreachable, Client
from agent.cli.declare import argument, command, option
from agent.cli.main import DONE
from agent.cli.options import host_option, json_option
from agent.cli.output import paint, print_json, print_table, render_age, safe
from agent.errors import NotFound

_STATE_COLOURS = {"running": "green", "exited": "grey", "stopping": "yellow", "lost": "red", "wedged": "red"}
_HEALTH_COLOURS = {"healthy": "green", "unhealthy": "red", "starting": "yellow"}


@command()
@argument("names", nargs=-1, metavar="[APP|SERVICE|CONTAINER]...")
@option("-q", "--quiet", is_flag=True, help="Print ids only.")
@json_option
@host_option
def ps(names: tuple[str, ...], quiet: bool, as_json: bool, host: str) -> int:
    """List containers.

    \b
    holdfast ps                 all of them
    holdfast ps web             those of the app or service web
    holdfast ps --json | jq     for scripts
    """
    rows = [row for row in Client(host).get("/ps") if not names or _words(row) & set(names)]
    unknown = set(names).difference(*map(_words, rows))
    if unknown:
        raise NotFound(f"no container of {', '.join(sorted(unknown))}", hint="holdfast ps lists all")
    if as_json:
        print_json(rows)
    elif quiet:
        print("".join(f"{row['id']}\n" for row in rows), end="")
    else:
        headers = ("NAME", "ID", "STATE", "HEALTH", "IP", "IMAGE", "RESTARTS", "AGE")
        print_table(headers, [_describe_container(row) for row in rows])
        for row in rows:
            if row.get("answer"):
                print(f"{safe(row['name'])} ({row['id'][:12]}) {safe(row['answer'])}")
    return DONE


def _words(row: dict[str, Any]) -> set[str]:
    return {row["app"], row["service"], row["name"]}


def _describe_state(row: dict[str, Any]) -> str:
    """The state, and how it ended: ``completed``, ``exited (3)``, ``exited (signal 9)``, ``exited (out of memory)``."""
    end = row.get("exit")
    if row.get("completed"):
        return "completed"
    if not end:
        return str(row["state"])
    how = str(end["code"]) if end["code"] is not None else f"signal {end['signal']}" if end["signal"] else "unknown"
    return f"{row['state']} ({'out of memory' if end['oom'] else how})"


def _describe_container(row: dict[str, Any]) -> tuple[str, ...]:
    state, health = str(row["state"]), str(row.get("health") or "-")
    return (
        safe(row["name"]),
        row["id"][:12],
        paint(_describe_state(row), _STATE_COLOURS.get(state, "yellow")),
        paint(health, _HEALTH_COLOURS.get(health, "")),
        row.get("ip") or "-",
        safe(row.get("image") or "-"),
        str(row.get("restarts", 0)),
        render_age(float(row.get("started") or row.get("created") or 0)),
    )


@command(short_help="Print the version of this command and of the agent.")
@json_option
@host_option
def version(as_json: bool, host: str) -> int:
    """Print the version of this command and of the agent, if one answers."""
    try:
        agent = Client(host).get("/version")["version"]
    except AgentUnreachable:
        agent = None
    if as_json:
        print_json({"client": __version__, "agent": agent})
    else:
        print(f"holdfast {__version__}")
        print(f"agent    {agent or 'does not answer'}")
    return DONE

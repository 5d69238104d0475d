"""sync and down: the two commands that make the agent act."""

from __future__ import annotations

import click

from agent.cli.client import Client
from agent.cli.main import DONE, PENDING
from agent.cli.options import host_option, json_option
from agent.cli.output import print_json, safe
from agent.cli.status import print_status


@click.command()
@click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(0, 86400),
    default=60.0,
    show_default=True,
    help="Wait so long until everything is as wanted; 0 does not wait.",
)
@json_option
@host_option
def sync(wait: float, as_json: bool, host: str) -> int:
    """Read the state directory and reconcile now; exit 0 when all is as wanted, else 2.

    \b
    holdfast sync
    holdfast sync --wait 0
    """
    found = Client(host).post("/sync", wait=wait)
    if as_json:
        print_json(found)
    else:
        print_status(found)
    return DONE if found["converged"] else PENDING


@click.command()
@json_option
@host_option
def down(as_json: bool, host: str) -> int:
    """Stop and remove everything the agent owns: containers, networks, rules. Volumes and images stay.

    It stays down, also when the agent starts again, until `holdfast sync` or a change in the state directory.

    \b
    holdfast down
    """
    found = Client(host).post("/down")
    if as_json:
        print_json(found)
    elif found["removed"]:
        print("\n".join(f"removed {safe(name)}" for name in found["removed"]))
    else:
        print("nothing to remove")
    return DONE

"""builder prune: remove what builds keep."""

from __future__ import annotations

import re

from agent.cli.declare import command, option
from agent.cli.documents import post_document
from agent.cli.main import DONE
from agent.cli.options import host_option, json_option
from agent.cli.output import print_json, render_size
from agent.cli.since import read_age
from agent.errors import Refused

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\Z", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@command()
@option("-a", "--all", "everything", is_flag=True, help="Layers that images have too, and all cache mounts.")
@option("--unused-for", metavar="DURATION", help="Only what was unused for so long, such as 90m, 12h or 7d.")
@option("--filter", "filters", metavar="until=DURATION", multiple=True, help="The same, as docker has it.")
@option("--keep-storage", metavar="SIZE", help="Leave so much of what was used last, such as 512MB or 10GB.")
@option("-f", "--force", is_flag=True, help="As docker has it; nothing is ever asked.")
@option("-n", "--dry-run", is_flag=True, help="Only print how much would go.")
@json_option
@host_option
def prune(
    everything: bool, unused_for: str | None, filters: tuple[str, ...], keep_storage: str | None, **options: object
) -> int:
    """Remove layers of steps that no image has, so that the next build makes them again.

    With --all, forget every layer, and remove the caches of RUN --mount=type=cache. What a build under way uses stays.

    \b
    holdfast builder prune
    holdfast builder prune --all --unused-for 7d
    holdfast builder prune --all --keep-storage 10GB
    """
    dry_run = bool(options["dry_run"])
    body = {
        "all": everything,
        "min_age": read_age(unused_for, filters),
        "keep_bytes": _read_size(keep_storage) if keep_storage else 0,
        "dry_run": dry_run,
    }
    outcome = post_document(str(options["host"]), "/builder/prune", body)
    if options["as_json"]:
        print_json(outcome)
        return DONE
    what = f"{outcome['layers']} layers and {outcome['mounts']} cache mounts"
    size = render_size(outcome["freed"])
    print(f"{what} would go, {size}" if dry_run else f"{what} removed, {size} freed")
    return DONE


def _read_size(text: str) -> int:
    """Bytes, at least one. Raises Refused."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise Refused(f"--keep-storage: {text!r} is no size", reason="InvalidArgument", hint="such as 512MB or 10GB")
    return max(int(float(match[1]) * _UNITS[match[2].lower()]), 1)

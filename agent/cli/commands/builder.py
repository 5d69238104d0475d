"""builder: the group of commands on what builds keep."""

from __future__ import annotations

import click

from agent.cli.group import LazyGroup

_PLACES = {"prune": "builderprune:prune"}


@click.command(cls=LazyGroup, places=_PLACES, context_settings={"help_option_names": ["-h", "--help"]})
def builder() -> None:
    """Look after what builds keep for the next ones. `holdfast system df` tells how much that is."""

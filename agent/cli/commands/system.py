"""system: the group of commands on the host as a whole."""

from __future__ import annotations

import click

from agent.cli.group import LazyGroup

_PLACES = {"df": "systemdf:df"}


@click.command(cls=LazyGroup, places=_PLACES, context_settings={"help_option_names": ["-h", "--help"]})
def system() -> None:
    """Look at the host as a whole."""

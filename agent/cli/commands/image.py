"""image: the group of commands on local images."""

from __future__ import annotations

import click

from agent.cli.group import LazyGroup

_PLACES = {
    "ls": "imagelist:images",
    "inspect": "imagefacts:inspect",
    "history": "imagefacts:history",
    "pull": "pull:pull",
    "tag": "imagechange:tag",
    "rm": "imagechange:remove",
    "prune": "imageprune:prune",
    "verify": "imageverify:verify",
    "build": "build:build",
    "push": "push:push",
    "save": "savecommand:save",
    "load": "loadcommand:load",
    "import": "loadcommand:import_command",
}


@click.command(cls=LazyGroup, places=_PLACES, context_settings={"help_option_names": ["-h", "--help"]})
def image() -> None:
    """Look into local images, name, remove and verify them.

    Images that containers, apps or builds need are never removed. When the disk fills, those go first that nobody has
    used for longest: see `holdfast agent --help`, --image-watermarks.
    """

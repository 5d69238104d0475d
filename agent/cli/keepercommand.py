"""keeper: run the parent of all containers in the foreground, for a service manager. Hidden: users never need it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click

from agent.cli.main import DONE, ERROR
from agent.errors import Conflict
from agent.settings import DEFAULT_RUN_ROOT

_ATTEMPTS = 100
_PAUSE_SECONDS = 0.1


@click.command(hidden=True)
@click.option("--run-root", type=click.Path(path_type=Path), default=DEFAULT_RUN_ROOT, show_default=True)
@click.option("--upgrade", is_flag=True, help="Make the keeper that runs go on as this version, and return.")
def keeper(run_root: Path, upgrade: bool) -> int:
    """Run the keeper of one run root. An agent starts one by itself where none runs."""
    if upgrade:
        return _upgrade(run_root)
    from agent.runtime.keeper.sealed import execute_sealed, find_package_root

    run_root.mkdir(mode=0o700, parents=True, exist_ok=True)
    execute_sealed(os.path.realpath(sys.executable), find_package_root(), {"run_root": str(run_root.resolve())})
    return ERROR


def _upgrade(run_root: Path) -> int:
    """The same process, with the same children, becomes a keeper of this package and interpreter."""
    from agent.runtime.client import KeeperClient
    from agent.runtime.keeper.sealed import find_package_root

    client = KeeperClient(run_root, lambda event: None, spawn=False)
    client.connect()
    try:
        for attempt in range(_ATTEMPTS):
            try:
                client.upgrade(os.path.realpath(sys.executable), find_package_root())
                break
            except Conflict:  # it is just setting a container up
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(_PAUSE_SECONDS)
        client.states()  # the new version answers
    finally:
        client.close()
    return DONE

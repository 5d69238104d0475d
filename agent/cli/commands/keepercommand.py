"""keeper: run the parent of all containers in the foreground, for a service manager. Hidden: users never need it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.declare import command, of_type, option
from agent.cli.main import DONE, ERROR
from agent.errors import Conflict
from agent.settings import DEFAULT_RUN_ROOT

if TYPE_CHECKING:
    from agent.runtime.client import KeeperClient

_ATTEMPTS = 100
_PAUSE_SECONDS = 0.1


@command(hidden=True)
@option("--run-root", type=of_type("Path", path_type=Path), default=DEFAULT_RUN_ROOT, show_default=True)
@option("--upgrade", is_flag=True, help="Make the keeper that runs go on as this version, and return.")
@option("--halt", is_flag=True, help="End all containers, for the host shuts down; the next boot has them again.")
def keeper(run_root: Path, upgrade: bool, halt: bool) -> int:
    """Run the keeper of one run root. An agent starts one by itself where none runs."""
    if upgrade or halt:
        return _ask(run_root, _upgrade if upgrade else _halt)
    from agent.runtime.keeper.sealed import execute_sealed, find_package_root

    run_root.mkdir(mode=0o700, parents=True, exist_ok=True)
    execute_sealed(os.path.realpath(sys.executable), find_package_root(), {"run_root": str(run_root.resolve())})
    return ERROR


def _ask(run_root: Path, question: Callable[[KeeperClient], None]) -> int:
    from agent.runtime.client import KeeperClient

    client = KeeperClient(run_root, lambda event: None, spawn=False)
    client.connect()
    try:
        question(client)
    finally:
        client.close()
    return DONE


def _upgrade(client: KeeperClient) -> None:
    """The same process, with the same children, becomes a keeper of this package and interpreter."""
    from agent.runtime.keeper.sealed import find_package_root

    for attempt in range(_ATTEMPTS):
        try:
            client.upgrade(os.path.realpath(sys.executable), find_package_root())
            break
        except Conflict:  # it is just setting a container up
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_PAUSE_SECONDS)
    client.states()  # the new version answers


def _halt(client: KeeperClient) -> None:
    from agent.runtime.halt import halt_containers

    print(f"ended {halt_containers(client)} containers")

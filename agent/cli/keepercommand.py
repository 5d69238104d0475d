"""keeper: run the parent of all containers in the foreground, for a service manager. Hidden: users never need it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from agent.settings import DEFAULT_RUN_ROOT


@click.command(hidden=True)
@click.option("--run-root", type=click.Path(path_type=Path), default=DEFAULT_RUN_ROOT, show_default=True)
def keeper(run_root: Path) -> int:
    """Run the keeper of one run root. An agent starts one by itself where none runs."""
    from agent.runtime.keeper.sealed import execute_sealed, find_package_root

    run_root.mkdir(mode=0o700, parents=True, exist_ok=True)
    execute_sealed(os.path.realpath(sys.executable), find_package_root(), {"run_root": str(run_root.resolve())})
    return 1

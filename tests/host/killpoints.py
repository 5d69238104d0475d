"""An agent that kills itself with SIGKILL at one of its own calls: a test's entry point, never a switch of the product.

Run as ``python killpoints.py FILE agent ...``: FILE holds the number of the call, and gets the calls that were passed.
A call is one on the engine's containers, images and networks, or one that writes to the database; before and after.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def guard(owner: type, name: str, pass_by: Callable[[str], None]) -> None:
    """Put a point before and one behind every call of a method."""
    call = getattr(owner, name)

    def run(*arguments: Any, **options: Any) -> Any:
        pass_by(f"before {owner.__name__}.{name}")
        result = call(*arguments, **options)
        pass_by(f"after {owner.__name__}.{name}")
        return result

    setattr(owner, name, run)


def arm(file: Path) -> None:
    """From now on calls are counted while ``file`` exists, and the one whose number it holds is the last.

    A file that is written again counts from the beginning.
    """
    from agent.engine.containers import Containers
    from agent.engine.images import Images
    from agent.engine.networks import Networks
    from agent.store.database import Database

    lock, seen, lit = threading.Lock(), [0], [0]

    def pass_by(what: str) -> None:
        with lock, suppress(FileNotFoundError):  # not there, or taken away while it is looked at
            if lit[0] != file.stat().st_mtime_ns:
                lit[0], seen[0] = file.stat().st_mtime_ns, 0
            seen[0] += 1
            with file.with_suffix(".passed").open("a") as passed:
                passed.write(f"{what}\n")
            if seen[0] == int(file.read_text() or 0):
                file.unlink()
                os.kill(os.getpid(), signal.SIGKILL)

    guarded = {Containers: ("create_start", "stop", "remove"), Images: ("pull",), Networks: ("ensure", "publish")}
    for owner, names in guarded.items():
        for name in names:
            guard(owner, name, pass_by)
    guard(Database, "put_many", pass_by)
    guard(Database, "delete", pass_by)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    arm(Path(sys.argv.pop(1)))
    sys.argv[0] = "holdfast"
    from agent.cli.main import main

    main()

"""The database's schema as it changed from release to release: one step a version, in order, never edited later.

A step gets the connection inside one transaction with all the others: a database is as its release left it, or as this
one wants it. What it was before is kept beside it (``holdfast.db.schema1``), so that the older release can be put back.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from agent.errors import Stalled
from agent.store.atomic import sync_directory

Step = Callable[[sqlite3.Connection], None]
FIRST_VERSION = 1
STEPS: tuple[Step, ...] = ()
"""The first makes schema 2 of 1, and so on."""


def compute_version(steps: Sequence[Step] = STEPS) -> int:
    """The schema that a release with these steps writes."""
    return FIRST_VERSION + len(steps)


def migrate(connection: sqlite3.Connection, path: Path, steps: Sequence[Step] = STEPS) -> None:
    """Bring the database of ``path`` to this release's schema. Raises Stalled when a newer one wrote it, and
    sqlite3.Error when it cannot be written: then it is as it was."""
    wanted = compute_version(steps)
    found = read_version(connection)
    if found > wanted:
        raise Stalled(
            f"{path} was written by a newer Holdfast (schema {found}, this one knows {wanted})",
            reason="DatabaseTooNew",
            hint="install that version again, or start with another --data-root",
        )
    if found == wanted:  # no write that is not needed: a full disk must not keep an agent from starting
        return
    if found and steps:
        _keep(connection, path, found)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        for step in steps[found - FIRST_VERSION :] if found else ():
            step(connection)
        connection.execute(f"PRAGMA user_version={wanted}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def read_version(connection: sqlite3.Connection) -> int:
    """The schema of a database; 0 for one that nothing was written to yet."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def copy_database(connection: sqlite3.Connection, target: Path) -> None:
    """A whole copy of a database in one new file, readable by root only and on the disk. Others may go on writing."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(target)) as copy:
        connection.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _keep(connection: sqlite3.Connection, path: Path, version: int) -> None:
    fresh = path.with_name(f".{path.name}.schema{version}")
    fresh.unlink(missing_ok=True)
    copy_database(connection, fresh)
    fresh.rename(path.with_name(f"{path.name}.schema{version}"))
    sync_directory(path.parent)

"""Databases of every released version open, are kept as they were, and are changed whole or not at all."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.controller.deploy.revisions import Revisions, load_revision_documents
from agent.daemon.assembly import WITH_ENVIRONMENTS
from agent.errors import Stalled, Waiting
from agent.store.database import SCHEMA_VERSION, Database
from agent.store.migrations import STEPS, Step, compute_version
from agent.store.sealing import Seal, load_key

WRITTEN = Path(__file__).parents[2] / "data" / "databases"


def add_column(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE thing_records ADD COLUMN note TEXT NOT NULL DEFAULT ''")


def rename(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE thing_records RENAME TO matter_records")


def fail(connection: sqlite3.Connection) -> None:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    raise error


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [*connection.iterdump(), str(connection.execute("PRAGMA user_version").fetchone())]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with closing(Database(tmp_path / "a.db", steps=())) as database:
        database.put("thing", "a", {"n": 1})
    return tmp_path / "a.db"


def test_steps_are_done_once_and_in_order(old: Path) -> None:
    before = dump(old)
    for steps in ((add_column,), (add_column, rename), (add_column, rename)):
        Database(old, steps=steps).close()
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("SELECT * FROM matter_records").fetchall() == [("a", '{"n":1}', "")]
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    assert dump(old.with_name("a.db.schema1")) == before, "what it was is kept"
    assert old.with_name("a.db.schema1").stat().st_mode & 0o777 == 0o600
    assert old.with_name("a.db.schema2").exists()
    assert not old.with_name("a.db.schema3").exists()


@pytest.mark.parametrize("steps", [(add_column, fail), (fail,)])
def test_a_step_that_fails_leaves_all_as_it_was(old: Path, steps: tuple[Step, ...]) -> None:
    before = dump(old)
    with pytest.raises(Waiting, match="full"):
        Database(old, steps=steps)
    assert dump(old) == before
    Database(old, steps=(add_column, rename)).close()
    assert dump(old.with_name("a.db.schema1")) == before


def test_a_newer_one_is_refused_untouched(old: Path) -> None:
    Database(old, steps=(add_column,)).close()
    before = dump(old)
    with pytest.raises(Stalled, match="newer Holdfast"):
        Database(old, steps=())
    assert dump(old) == before


def test_a_new_database_needs_no_step(tmp_path: Path) -> None:
    Database(tmp_path / "a.db", steps=(fail, fail)).close()
    assert dump(tmp_path / "a.db")[-1] == "(3,)"
    assert [path.name for path in tmp_path.glob("a.db.*")] == []


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_what_every_release_wrote_can_be_read(version: int, tmp_path: Path) -> None:
    """An app that was deployed twice, the second time in vain, as the release of that schema left it."""
    for name in ("holdfast.db", "holdfast.key"):
        shutil.copy(WRITTEN / f"schema{version}" / name, tmp_path / name)
    key = load_key(tmp_path / "holdfast.key")
    with closing(Database(tmp_path / "holdfast.db", Seal(key), WITH_ENVIRONMENTS)) as database:
        documents = load_revision_documents(database.all("revision"))
        known = Revisions("shop", None, documents["shop"])  # type: ignore[arg-type]  # nothing is written
        assert [(found.number, found.status) for found in known.all] == [(1, "good"), (2, "rolled-back")]
        assert known.all[0].desired.app.services["web"].environment == {"SECRET": "1"}
        assert database.all("deploy")["shop"]["base"] == known.all[0].id
        assert database.all("event")
    assert compute_version(STEPS) == SCHEMA_VERSION

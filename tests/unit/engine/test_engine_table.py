"""The table of containers: what is written at once, what with the next record, and what a full disk does to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.engine.model import ContainerConfig, ContainerRecord, ContainerState
from agent.engine.table import KIND, ContainerTable
from agent.errors import Waiting
from agent.store.database import Database


def record(name: str) -> ContainerRecord:
    return ContainerRecord(name * 64, ContainerConfig(name=name, image="sha256:0"), ContainerState.CREATED, created=1.0)


def stored(database: Database) -> dict[str, str]:
    return {key[:1]: document["state"] for key, document in database.all(KIND).items()}


def test_running_state_is_written_with_the_next_record(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    table = ContainerTable(database)
    table.add(record("a"))
    table.advance("a" * 64, persist=False, state=ContainerState.RUNNING)
    table.persist_later("a" * 64)
    assert stored(database) == {"a": "created"}
    table.add(record("b"))
    assert stored(database) == {"a": "running", "b": "created"}


def test_flush_writes_what_waits(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    table = ContainerTable(database)
    table.add(record("a"))
    table.advance("a" * 64, persist=False, state=ContainerState.RUNNING)
    table.persist_later("a" * 64)
    table.persist_later("gone")
    table.flush()
    assert stored(database) == {"a": "running"}
    assert ContainerTable(database).get("a" * 64).state is ContainerState.RUNNING


def test_what_a_full_disk_refuses_goes_on_waiting(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    table = ContainerTable(database)
    table.add(record("a"))
    table.advance("a" * 64, persist=False, state=ContainerState.RUNNING)
    table.persist_later("a" * 64)
    pages = database._connection.execute("PRAGMA page_count").fetchone()[0]
    database._connection.execute(f"PRAGMA max_page_count={pages}")
    large = ContainerConfig(name="b", image="sha256:0", labels={"filler": "x" * 100_000})
    with pytest.raises(Waiting):
        table.add(ContainerRecord("b" * 64, large, ContainerState.CREATED, created=2.0))
    assert not table.knows("b" * 64)
    database._connection.execute("PRAGMA max_page_count=100000")
    table.flush()
    assert stored(database) == {"a": "running"}


def test_what_is_stored_beside_a_record_shares_its_fate(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    table = ContainerTable(database)

    def store_and_fail() -> None:
        database.put("beside", "b", {})
        raise Waiting("no room", reason="Test")

    table.add(record("a"), beside=lambda: database.put("beside", "a", {}))
    table.advance("a" * 64, persist=False, state=ContainerState.RUNNING)
    table.persist_later("a" * 64)
    with pytest.raises(Waiting):
        table.add(record("b"), beside=store_and_fail)
    assert (stored(database), list(database.all("beside"))) == ({"a": "created"}, ["a"])
    assert not table.knows("b" * 64)
    table.flush()
    assert stored(database) == {"a": "running"}, "what was to be written with it still waits"


def test_deleted_container_does_not_come_back(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    table = ContainerTable(database)
    table.add(record("a"))
    table.persist_later("a" * 64)
    table.delete(["a" * 64])
    table.flush()
    assert stored(database) == {}

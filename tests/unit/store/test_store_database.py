"""The database keeps, replaces, rolls back and refuses as its docstrings say."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agent.errors import Stalled, Waiting
from agent.store.database import Database


def test_round_trip(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    database.put("thing", "b", {"n": 1})
    database.put("thing", "a", {"n": 2})
    database.put("thing", "b", {"n": 3})
    assert database.get("thing", "b") == {"n": 3}
    assert list(database.all("thing")) == ["a", "b"]
    database.delete("thing", "a", "absent")
    assert database.get("thing", "a") is None


def test_transaction_rolls_back_whole(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")

    def fail_midway() -> None:
        with database.transaction():
            database.put("new_kind", "a", {})
            database.put("other", "b", {})
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail_midway()
    assert database.all("new_kind") == {}
    assert database.all("other") == {}
    database.put("new_kind", "a", {"x": 1})
    assert database.get("new_kind", "a") == {"x": 1}


def test_survives_kill(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal; from pathlib import Path; from agent.store.database import Database\n"
        "d = Database(Path(sys.argv[1]))\n"
        "for n in range(100): d.put('thing', str(n), {'n': n})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.db")], check=False)
    assert run.returncode == -signal.SIGKILL
    assert len(Database(tmp_path / "a.db").all("thing")) == 100


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "a.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(Stalled, match="newer Holdfast"):
        Database(tmp_path / "a.db")


def test_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(Stalled, match="damaged"):
        Database(tmp_path / "a.db")


def test_kind_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="record kind"):
        Database(tmp_path / "a.db").put("x; DROP TABLE", "a", {})


def test_file_is_private(tmp_path: Path) -> None:
    Database(tmp_path / "a.db")
    assert (tmp_path / "a.db").stat().st_mode & 0o077 == 0


def test_a_file_that_another_program_holds_is_waited_for(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    database._connection.execute("PRAGMA busy_timeout=0")
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Waiting, match="another program") as caught:
        database.put("thing", "a", {})
    assert caught.value.reason == "DatabaseHeld"
    other.close()
    database.put("thing", "a", {})


def test_a_file_that_cannot_be_written_is_waited_for(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    database._connection.execute("PRAGMA query_only=1")  # answers as a file system does that is read-only by now
    with pytest.raises(Waiting, match="read-only") as caught:
        database.put("thing", "a", {})
    assert caught.value.reason == "DatabaseReadOnly"
    database._connection.execute("PRAGMA query_only=0")
    database.put("thing", "a", {})


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(Waiting, match="unable to open"):
        Database(tmp_path)

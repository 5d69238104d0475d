"""A backup holds all that the agent itself decided, is whole or not there, and goes back only where it may."""

from __future__ import annotations

import json
import re
import sqlite3
import tarfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from agent.errors import Conflict, HoldfastError, NotFound, Refused, Stalled
from agent.store.backup import OF_THE_HOST, restore_backup, write_backup
from agent.store.database import Database
from agent.store.identities import make_identity, read_identities
from agent.store.layout import DataLayout
from agent.store.sealing import Seal, load_key

SEALED = ("app", "revision")
OF_THE_AGENT = {"app", "revision", "deploy", "agent", "approval", "event", "image_state"}


def open_state(layout: DataLayout) -> Database:
    return Database(layout.database, Seal(load_key(layout.key)), SEALED)


@pytest.fixture
def layout(tmp_path: Path) -> DataLayout:
    made = DataLayout(tmp_path / "data")
    made.create()
    with closing(open_state(made)) as database:
        database.put("app", "shop", {"environment": "hunter2-in-a-file"})
        database.put("deploy", "shop", {"base": "sha256:1"})
        database.put("container", "c1", {"name": "shop-web-1"})
    return made


def test_round_trip_to_another_host(layout: DataLayout, tmp_path: Path) -> None:
    summary = write_backup(layout, tmp_path / "a.tar", "1.2")
    assert summary.records == {"app": 1, "container": 1, "deploy": 1}
    assert (tmp_path / "a.tar").stat().st_mode & 0o777 == 0o600
    assert b"hunter2" not in (tmp_path / "a.tar").read_bytes(), "sealed as in the database"
    other = DataLayout(tmp_path / "other")
    other.create()
    restore_backup(other, tmp_path / "a.tar", force=False)
    with closing(open_state(other)) as database:
        assert database.get("app", "shop") == {"environment": "hunter2-in-a-file"}
        assert database.get("deploy", "shop") == {"base": "sha256:1"}
        assert database.all("container") == {}, "there is no such container on that host"


def test_the_identity_of_the_data_root_goes_with_it(layout: DataLayout, tmp_path: Path) -> None:
    (own,) = make_identity(layout.identity)[0].recipients
    write_backup(layout, tmp_path / "a.tar", "1.2")
    fresh, other = DataLayout(tmp_path / "fresh"), DataLayout(tmp_path / "other")
    for made in (fresh, other):
        made.create()
    (theirs,) = make_identity(other.identity)[0].recipients
    for made in (fresh, other):
        restore_backup(made, tmp_path / "a.tar", force=False)
    assert fresh.identity.read_bytes() == layout.identity.read_bytes()
    assert fresh.identity.stat().st_mode & 0o777 == 0o600
    assert read_identities(other.identity).recipients == (theirs, own), "both keys open what is for them"
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == ["manifest.json", "holdfast.db", "holdfast.key", "age.key"]


def test_force_replaces_decisions_and_keeps_what_is_of_the_host(layout: DataLayout, tmp_path: Path) -> None:
    write_backup(layout, tmp_path / "a.tar", "1.2")
    other = DataLayout(tmp_path / "other")
    other.create()
    with closing(open_state(other)) as database:
        database.put("app", "blog", {})
        database.put("container", "c2", {"name": "blog-web-1"})
        with pytest.raises(Conflict, match="holds the state"):
            restore_backup(other, tmp_path / "a.tar", force=False)
        assert list(database.all("app")) == ["blog"]
    restore_backup(other, tmp_path / "a.tar", force=True)
    with closing(open_state(other)) as database:
        assert database.all("app") == {"shop": {"environment": "hunter2-in-a-file"}}
        assert list(database.all("container")) == ["c2"]


def test_a_restore_that_was_killed_leaves_nothing_for_long(layout: DataLayout, tmp_path: Path) -> None:
    write_backup(layout, tmp_path / "a.tar", "1.2")
    for finish in (DataLayout.sweep, lambda layout: restore_backup(layout, tmp_path / "a.tar", force=True)):
        (layout.root / ".restore.x1").mkdir()
        (layout.root / ".restore.x1" / "holdfast.key").write_bytes(b"key")
        finish(layout)
        assert not list(layout.root.glob(".restore*"))
        assert layout.database.exists()


def test_backups_of_a_database_that_is_being_written(layout: DataLayout, tmp_path: Path) -> None:
    """Each is of one moment: of two records that always change together, both are the same."""
    ended = threading.Event()

    def write() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            database.put_many("deploy", [("a", {"n": number}), ("b", {"n": number})])

    with closing(open_state(layout)) as database:
        database.put_many("deploy", [("a", {"n": 0}), ("b", {"n": 0})])
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(5):
                write_backup(layout, tmp_path / f"{number}.tar", "1")
        finally:
            ended.set()
            writer.join()
    for number in range(5):
        other = DataLayout(tmp_path / f"other{number}")
        other.create()
        restore_backup(other, tmp_path / f"{number}.tar", force=False)
        with closing(open_state(other)) as database:
            assert database.get("deploy", "a") == database.get("deploy", "b")


@pytest.mark.parametrize("harm", ["cut", "changed", "other", "empty", "order"])
def test_what_is_no_whole_backup_changes_nothing(layout: DataLayout, tmp_path: Path, harm: str) -> None:
    write_backup(layout, tmp_path / "a.tar", "1")
    data = bytearray((tmp_path / "a.tar").read_bytes())
    if harm == "cut":
        data = data[: len(data) // 2]
    if harm == "changed":
        data[6000] ^= 1
    if harm == "empty":
        data.clear()
    (tmp_path / "a.tar").write_bytes(data)
    if harm in ("other", "order"):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            archive.add(layout.key, "../../etc/shadow" if harm == "other" else "holdfast.key")
    before = layout.database.read_bytes()
    with pytest.raises(Refused):
        restore_backup(layout, tmp_path / "a.tar", force=True)
    assert layout.database.read_bytes() == before
    assert sorted(path.name for path in layout.root.iterdir() if path.name.startswith(".")) == []


def test_a_newer_schema_is_refused(layout: DataLayout, tmp_path: Path) -> None:
    with closing(sqlite3.connect(layout.database)) as connection:
        connection.execute("PRAGMA user_version=99")
    write_backup(layout, tmp_path / "a.tar", "9")
    other = DataLayout(tmp_path / "other")
    other.create()
    with pytest.raises(Stalled, match="newer Holdfast"):
        restore_backup(other, tmp_path / "a.tar", force=False)
    assert not other.database.exists()


def test_nothing_is_overwritten_and_nothing_left_behind(layout: DataLayout, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("mine")
    with pytest.raises(Conflict, match="exists"):
        write_backup(layout, tmp_path / "a.tar", "1")
    assert (tmp_path / "a.tar").read_text() == "mine"
    with pytest.raises(NotFound, match="no state"):
        write_backup(DataLayout(tmp_path / "nowhere"), tmp_path / "b.tar", "1")
    layout.database.write_bytes(b"rubbish" * 1000)
    with pytest.raises(HoldfastError, match="cannot be read"):
        write_backup(layout, tmp_path / "b.tar", "1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "data"]
    with pytest.raises(NotFound, match="no file"):
        restore_backup(layout, tmp_path / "c.tar", force=True)


def test_every_kind_of_record_is_known_to_backups() -> None:
    """A new kind has to be said to be of the host or of the agent: here, and, if of the host, in OF_THE_HOST."""
    found: set[str] = set()
    for path in (Path(__file__).parents[3] / "agent").rglob("*.py"):
        found |= set(re.findall(r'^[A-Z_]*KIND = "([a-z_]+)"', path.read_text(), re.MULTILINE))
    assert "container" in found
    assert found <= OF_THE_HOST | OF_THE_AGENT, f"not known: {found - OF_THE_HOST - OF_THE_AGENT}"


def test_the_manifest_can_be_read_by_anybody(layout: DataLayout, tmp_path: Path) -> None:
    write_backup(layout, tmp_path / "a.tar", "1.2")
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == ["manifest.json", "holdfast.db", "holdfast.key"]
        member = archive.extractfile("manifest.json")
        assert member is not None
        assert json.load(member)["version"] == "1.2"

"""Named volumes on a real directory: made once, kept, found again, never reached through a link."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import HoldfastError, NotFound, Refused
from agent.store.database import Database
from agent.volume.model import VolumeNotFound
from agent.volume.store import VolumeStore


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "holdfast.db")
    yield database
    database.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "volumes"
    root.mkdir()
    return root


@pytest.fixture
def store(root: Path, database: Database) -> VolumeStore:
    return VolumeStore(root, database)


def test_ensure_makes_once_and_keeps_everything(store: VolumeStore, root: Path) -> None:
    made = store.ensure("app_data", {"a": "1"})
    assert (made.name, dict(made.labels), made.created > 0) == ("app_data", {"a": "1"}, True)
    assert store.path("app_data") == root / "app_data/_data"
    (root / "app_data/_data/file").write_text("precious")
    assert store.ensure("app_data", {"a": "2"}) is made
    assert (root / "app_data/_data/file").read_text() == "precious"
    assert ((root / "app_data").stat().st_mode & 0o777, (root / "app_data/_data").stat().st_mode & 0o777) == (
        0o700,
        0o755,
    )
    assert names(root) == ["app_data"]


def test_listing_is_shared_until_something_changes(store: VolumeStore) -> None:
    assert store.list() == ()
    store.ensure("b", {})
    store.ensure("a", {})
    listing = store.list()
    assert [record.name for record in listing] == ["a", "b"]
    store.ensure("a", {})
    assert store.list() is listing
    assert store.find("a") is listing[0]
    assert store.find("c") is None


def test_records_come_back(store: VolumeStore, root: Path, database: Database) -> None:
    before = store.ensure("kept", {"x": "y"})
    assert VolumeStore(root, database).list() == (before,)


def test_directories_are_the_truth_after_a_lost_database(store: VolumeStore, root: Path, tmp_path: Path) -> None:
    store.ensure("kept", {"x": "y"})
    (root / "kept/_data/file").write_text("precious")
    again = VolumeStore(root, Database(tmp_path / "new.db"))
    assert [(record.name, dict(record.labels)) for record in again.list()] == [("kept", {})]
    again.ensure("kept", {})
    assert (again.path("kept") / "file").read_text() == "precious"


def test_record_without_directory_is_dropped(store: VolumeStore, root: Path, database: Database) -> None:
    store.ensure("gone", {})
    (root / "gone/_data").rmdir()
    (root / "gone").rmdir()
    assert VolumeStore(root, database).list() == ()
    assert database.all("volume") == {}


def test_a_directory_that_vanished_is_noticed_and_made_again(store: VolumeStore, root: Path) -> None:
    store.ensure("fickle", {"old": "1"})
    (root / "fickle/_data").rmdir()
    with pytest.raises(VolumeNotFound):
        store.path("fickle")
    assert store.list() == ()
    assert dict(store.ensure("fickle", {"new": "1"}).labels) == {"new": "1"}
    assert store.path("fickle").is_dir()


def test_what_a_crash_left_behind_goes(root: Path, database: Database) -> None:
    (root / ".tmp-1/_data").mkdir(parents=True)
    (root / "half").mkdir()
    (root / "lost+found").mkdir()
    store = VolumeStore(root, database)
    assert (store.list(), names(root)) == ((), ["half", "lost+found"])
    store.ensure("half", {})
    assert store.path("half").is_dir()


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "-x", "a/b", "a\0b", "a b", "é", "x" * 256, "a\n", "_x"])
def test_bad_names_are_refused(store: VolumeStore, root: Path, name: str) -> None:
    for call in (lambda: store.ensure(name, {}), lambda: store.path(name), lambda: store.remove(name)):
        with pytest.raises(Refused) as caught:
            call()
        assert caught.value.reason == "InvalidVolumeName"
    assert names(root) == []


@pytest.mark.parametrize("name", ["a", "0", "a.b-c_D", "x" * 255])
def test_good_names(store: VolumeStore, name: str) -> None:
    store.ensure(name, {})
    assert store.path(name).is_dir()


@pytest.mark.parametrize("depth", ["name", "data"])
@pytest.mark.parametrize("kind", ["link", "file"])
def test_no_link_is_followed_to_a_volume(store: VolumeStore, root: Path, tmp_path: Path, depth: str, kind: str) -> None:
    decoy = tmp_path / "decoy"
    (decoy / "_data").mkdir(parents=True)
    (decoy / "_data/secret").write_text("secret")
    store.ensure("victim", {})
    (root / "victim/_data").rmdir()
    place = root / "victim"
    if depth == "name":
        place.rmdir()
    else:
        place = place / "_data"
    if kind == "link":
        place.symlink_to(decoy if depth == "name" else decoy / "_data")
    else:
        place.write_text("")
    source = os.open(tmp_path, os.O_PATH)
    calls = (
        lambda: store.ensure("victim", {}),
        lambda: store.path("victim"),
        lambda: store.open_subpath("victim", "secret"),
        lambda: store.fill("victim", source, "/"),
    )
    for call in calls:
        with pytest.raises(HoldfastError) as caught:
            call()
        assert caught.value.reason in ("VolumeDamaged", "VolumeFailed", "VolumeNotFound")
    os.close(source)
    assert (names(decoy), names(decoy / "_data")) == (["_data"], ["secret"])


def test_remove_deletes_the_data_and_only_that(store: VolumeStore, root: Path, database: Database) -> None:
    store.ensure("kept", {})
    store.ensure("gone", {})
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    (root / "gone/_data/link").symlink_to(outside)
    store.remove("gone")
    assert ([record.name for record in store.list()], list(database.all("volume"))) == (["kept"], ["kept"])
    assert (names(root), (outside / "file").read_text()) == (["kept"], "x")
    with pytest.raises(NotFound):
        store.remove("gone")


def test_subpath_stays_beneath_the_volume(store: VolumeStore, root: Path, tmp_path: Path) -> None:
    store.ensure("v", {})
    data = root / "v/_data"
    (data / "sub/deep").mkdir(parents=True)
    (data / "inner").symlink_to("sub/deep")
    (data / "outer").symlink_to(tmp_path)
    (data / "up").symlink_to("../..")
    for subpath, wanted in (("sub/deep", "sub/deep"), ("inner", "sub/deep"), ("", "."), ("sub/../sub", "sub")):
        descriptor = store.open_subpath("v", subpath)
        assert os.path.samestat(os.fstat(descriptor), (data / wanted).stat())
        os.close(descriptor)
    for subpath in ("outer", "up", "..", "/etc", "sub/../../..", "inner/../../../..", "outer/x", "a\0b"):
        with pytest.raises(HoldfastError) as caught:
            store.open_subpath("v", subpath)
        assert caught.value.reason == "InvalidSubpath"
    with pytest.raises(NotFound, match="has no 'sub/none'"):
        store.open_subpath("v", "sub/none")


def test_many_threads_make_one_volume(store: VolumeStore, root: Path) -> None:
    found = []
    threads = [threading.Thread(target=lambda: found.append(store.ensure("one", {}))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len({id(record) for record in found}) == 1
    assert names(root) == ["one"]

"""What nobody needs goes, when the disk fills or when asked; what anybody needs stays, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from agents import eventually

from agent.engine import watermarks
from agent.engine.collector import TICK, ImageCollection
from agent.engine.images import Images
from agent.engine.watermarks import DiskWatch, Watermarks
from agent.image.collect import Keep
from agent.image.errors import ImageNotFound, InsufficientStorage
from agent.image.store import ImageStore
from agent.oci.imageconfig import ImageConfig
from agent.store.database import Database
from tests.host.registry import Registry, entry, make_tar

pytestmark = pytest.mark.host
LIBC = ctypes.CDLL(None, use_errno=True)
MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = ImageStore(tmp_path, Database(tmp_path / "holdfast.db"))
    yield opened
    opened.close()


def push(registry: Registry, name: str, *sizes: int) -> str:
    """An image of incompressible layers."""
    return registry.push_layers(name, [make_tar([entry(f"f{size}", os.urandom(size))]) for size in sizes])


def collect(store: ImageStore, *needed: str, used: tuple[str, ...] = ()) -> ImageCollection:
    collection = ImageCollection(store, lambda: used, frozenset)
    collection.ask(lambda: needed)
    return collection


def watch_disk(store: ImageStore, *needed: str, **marks: float) -> DiskWatch:
    return DiskWatch(store, collect(store, *needed), Watermarks(**{"min_age": 0.0, **marks}))


def snapshot_directories(store: ImageStore) -> set[str]:
    return {path.name for path in store.snapshots.root.iterdir()}


@contextmanager
def small_disk(size: int) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    options = f"size={size},mode=0700".encode()
    assert LIBC.mount(b"tmpfs", str(path).encode(), b"tmpfs", 0, options) == 0, os.strerror(ctypes.get_errno())
    try:
        yield path
    finally:
        LIBC.umount2(str(path).encode(), 2)
        shutil.rmtree(path)


def test_prune_takes_what_has_no_name_or_with_all_what_nobody_needs(registry: Registry, store: ImageStore) -> None:
    older = store.pull(push(registry, "app:1", 1000))
    newer = store.pull(push(registry, "app:1", 2000), policy="always")
    used = store.pull(push(registry, "used:1", 3000))
    needed = store.pull(push(registry, "needed:1", 4000))
    assert store.find(older.id) is not None, "the older one lost its name and stays"
    collection = collect(store, needed.names[0], used=(used.id,))
    told = collection.prune(dry_run=True)
    assert [image for image, _ in told.images] == [older.id]
    assert store.find(older.id) is not None
    outcome = collection.prune()
    assert [image for image, _ in outcome.images] == [older.id]
    assert (outcome.snapshots, outcome.blobs) == (1, 3)
    assert outcome.freed > 1000
    outcome = collection.prune(named=True)
    assert outcome.images == ((newer.id, (newer.names[0],)),)
    assert {image.id for image in store.all()} == {used.id, needed.id}
    assert len(store.content.all()) == len({blob for image in store.all() for blob in image.blobs})
    assert len(snapshot_directories(store)) == 2


def test_nothing_goes_while_nobody_knows_what_is_needed(registry: Registry, store: ImageStore) -> None:
    image = store.pull(push(registry, "unknown:1", 1000))
    collection = collect(store)
    collection.ask(lambda: None)
    assert collection.prune(named=True).images == ()
    assert collection.remove(image) is None
    assert DiskWatch(store, collection, Watermarks(min_age=0.0)).relieve(urgent=True).images == ()
    assert store.find(image.id) is not None


def test_what_is_held_or_built_upon_stays(registry: Registry, store: ImageStore, tmp_path: Path) -> None:
    held, base, old = (store.pull(push(registry, f"busy:{number}", 1000)) for number in range(3))
    collection = collect(store)
    time.sleep(TICK)  # what was used less before a build counts as used by it
    with collection.building():
        layers = store.layers(base.id)
        tree = tmp_path / "tree"
        tree.mkdir()
        (tree / "made").write_bytes(b"made")
        made = store.commit_layer(tree, parents=[layer.chain_id for layer in layers])
        with store.held(held.id):
            store.prune(min_age=0.0, since=collection._keep(()).since)
            assert collection.prune(named=True).images == (), "the build may still name any of them"
            assert collection.remove(held) is None
            assert collection.remove(base) is None
            assert collection.remove(old) is not None
        image = store.add_image(ImageConfig("amd64", "linux"), [*layers, made], "made:1")
    assert (store.lowerdirs(image.id)[0] / "made").read_bytes() == b"made"
    assert {image for image, _ in collection.prune(named=True).images} == {held.id, base.id, image.id}
    with pytest.raises(ImageNotFound), store.held(base.id):
        pass


def test_the_build_cache_keeps_its_layers(store: ImageStore, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "f").write_bytes(b"x")
    layer = store.commit_layer(tree)
    image = store.add_image(ImageConfig("amd64", "linux"), [layer], None)
    cached = frozenset({str(layer.chain_id), str(layer.descriptor.digest)})
    collection = ImageCollection(store, tuple, lambda: cached)
    collection.ask(frozenset)
    assert [gone for gone, _ in collection.prune().images] == [image.id]
    assert store.snapshots.find(layer.chain_id) is not None
    assert store.content.size(layer.descriptor.digest) == layer.descriptor.size


def test_what_is_recorded_of_an_image_goes_with_it(tmp_path: Path) -> None:
    """Also while the agent lives, which may be for long: indexes and signers are not only dropped at its next start."""
    database = Database(tmp_path / "holdfast.db")
    store = ImageStore(tmp_path, database)
    names = ["registry.example/a:1", "registry.example/b:1", "registry.example/c:1"]
    for name in names:
        (tmp_path / "tree").mkdir(exist_ok=True)
        (tmp_path / "tree/file").write_text(name)
        image = store.add_image(ImageConfig("amd64", "linux"), [store.commit_layer(tmp_path / "tree")], name)
        database.put("image_index", name, {"data": "{}", "kind": "x"})
        database.put("image_signers", f"{name.rpartition(':')[0]}@{image.digest}", {"keys": ["k"], "bundled": []})
    store.close()
    again = ImageStore(tmp_path, database)
    assert (len(database.all("image_index")), len(database.all("image_signers"))) == (3, 3)
    collect(again, names[1], names[2]).prune(named=True)
    again.remove(names[2])
    again.close()
    assert list(database.all("image_index")) == [names[1]]
    assert [key.partition("@")[0] for key in database.all("image_signers")] == ["registry.example/b"]


def test_watermark_removes_the_longest_unused_until_the_low_one(registry: Registry) -> None:
    with small_disk(20 * MIB) as disk:
        database = Database(disk / "holdfast.db")
        store = ImageStore(disk, database)
        images = [store.pull(push(registry, f"mark:{number}", 3 * MIB // 2)) for number in range(5)]
        store.lowerdirs(images[0].id)  # the oldest is used again
        kept = store.find(images[1].id)
        assert kept is not None
        store.close()
        watch = watch_disk(store, images[1].names[0], high=70.0, low=60.0)
        assert 75 < watch.fill_level() < 90
        told: list[tuple[str, str]] = []
        watch.report_to(lambda reason, message: told.append((reason, message)))
        outcome = watch.relieve()
        assert told[0][0] == "ImagesCollected"
        assert images[2].names[0] in told[0][1]
        assert [image for image, _ in outcome.images] == [images[2].id, images[3].id]
        assert watch.fill_level() < 60
        assert (watch.tally.runs, watch.tally.short, watch.tally.images) == (1, 0, 2)
        assert watch.tally.freed == outcome.freed > 6 * MIB
        assert watch.relieve().images == (), "below the watermark nothing goes"
        strict = watch_disk(store, *(image.names[0] for image in images), high=1.0, low=0.5)
        said: list[str] = []
        strict.report_to(lambda reason, _: said.append(reason))
        assert strict.relieve().images == strict.relieve().images == ()
        assert (strict.tally.short, said) == (2, ["DiskNearlyFull"]), "it is said once"
        store.close()
        database.close()


def test_a_pull_that_finds_the_disk_full_makes_room(registry: Registry) -> None:
    big = push(registry, "room:big", 9 * MIB // 2)
    with small_disk(20 * MIB) as disk:
        database = Database(disk / "holdfast.db")
        store = ImageStore(disk, database)
        old = [store.pull(push(registry, f"room:{number}", 2 * MIB)) for number in range(4)]
        store.close()
        kept = old[1]
        collection = collect(store, kept.names[0])
        watch = DiskWatch(store, collection, Watermarks(high=100.0, low=50.0, min_age=0.0))
        images = Images(store, None, collection, watch, dict)  # type: ignore[arg-type]
        collection.ask(lambda: [image.id for image in old])
        with pytest.raises(InsufficientStorage):
            images.pull(big)
        collection.ask(lambda: [kept.id])
        assert images.pull(big).names == (big,)
        assert store.find(kept.id) is not None
        unchecked = store.verify(tuple)
        assert any(finding.problem.startswith("cannot be checked: 4 MiB more are needed") for finding in unchecked)
        assert {finding.advice for finding in unchecked} == {"make room on the file system of the data root"}
        store.close()
        database.close()


def test_room_is_made_on_a_disk_without_any(registry: Registry) -> None:
    """Removing writes to the database, which has no room but what was put by for that."""
    with small_disk(12 * MIB) as disk:
        database = Database(disk / "holdfast.db")
        store = ImageStore(disk, database)
        kept, gone = (store.pull(push(registry, f"full:{number}", MIB)) for number in range(2))
        watch = watch_disk(store, kept.names[0], high=70.0, low=60.0)
        watch.start()
        with pytest.raises(OSError, match="No space"), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        assert [image for image, _ in watch.relieve().images] == [gone.id]
        assert [image.id for image in store.all()] == [kept.id]
        assert watch.fill_level() < 90
        watch.close()
        store.close()
        database.close()


def test_the_watch_removes_what_is_too_much_after_a_pull(registry: Registry) -> None:
    with small_disk(12 * MIB) as disk:
        database = Database(disk / "holdfast.db")
        store = ImageStore(disk, database)
        collection = collect(store)
        watch = DiskWatch(store, collection, Watermarks(high=60.0, low=55.0, min_age=0.0))
        images = Images(store, None, collection, watch, dict)  # type: ignore[arg-type]
        watch.start()
        first = images.pull(push(registry, "watch:1", 5 * MIB // 2))
        images.pull(push(registry, "watch:2", 3 * MIB // 2))
        eventually(lambda: store.find(first.id) is None, what="the older image is gone")
        watch.close()
        store.close()
        database.close()


def test_the_watch_forgets_what_is_not_used(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in an agent that goes on for months."""
    calls: list[float] = []
    watch = DiskWatch(store, collect(store), Watermarks(high=100.0), lambda: calls.append(time.monotonic()))
    watch.start()
    watch.check_soon()
    monkeypatch.setattr(watermarks, "FORGET_SECONDS", 0.2)
    eventually(lambda: (watch.check_soon(), len(calls) > 1)[1], what="it is called again and again")
    watch.close()
    assert calls[1] - calls[0] >= 0.2


def test_uses_outlive_the_process(registry: Registry, tmp_path: Path) -> None:
    first = ImageStore(tmp_path, Database(tmp_path / "holdfast.db"))
    images = [first.pull(push(registry, f"use:{number}", 1000)) for number in range(2)]
    first.lowerdirs(images[0].id)
    first.flush_uses()
    first.close()
    second = ImageStore(tmp_path, Database(tmp_path / "holdfast.db"))
    assert [image.id for image in second.unneeded(Keep())] == [images[1].id, images[0].id]
    assert second.unneeded(Keep(), min_age=600.0) == ()
    assert second.unneeded(Keep(since=0.0)) == ()
    second.close()


def test_pulls_race_with_collections(registry: Registry, store: ImageStore) -> None:
    """What was pulled is whole for as long as it is held, whatever is removed meanwhile."""
    shared = make_tar([entry("shared", b"s" * 5000)])
    names = [f"race:{number}" for number in range(3)]
    references = [registry.push_layers(name, [shared, make_tar([entry(name, b"x")])]) for name in names]
    collection, failures, stop = collect(store), list[BaseException](), threading.Event()

    def attempt(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    def pull() -> None:
        for number in range(10):
            image = store.pull(references[number % 3], policy="always")
            with contextlib.suppress(ImageNotFound), store.held(image.id):
                assert all(list(path.iterdir()) for path in store.lowerdirs(image.id))

    def prune() -> None:
        while not stop.is_set():
            collection.prune(named=True)
            store.prune(min_age=0.0)

    pullers = [threading.Thread(target=attempt, args=(pull,)) for _ in range(3)]
    pruner = threading.Thread(target=attempt, args=(prune,))
    for thread in (pruner, *pullers):
        thread.start()
    for thread in pullers:
        thread.join()
    stop.set()
    pruner.join()
    assert failures == []
    assert store.verify(tuple, repair=False) == ()

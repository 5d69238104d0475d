"""What nobody needs goes, when the disk fills or when asked; what anybody needs stays, whatever happens meanwhile."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from agents import eventually
from enginelab import EngineLab, open_engine

from agent.engine.collector import ImageCollection, Watermarks
from agent.engine.images import Images
from agent.engine.model import BuildConfig
from agent.errors import Conflict, Waiting
from agent.image.collect import Keep
from agent.image.errors import ImageNotFound, InsufficientStorage
from agent.image.store import ImageStore
from agent.oci.imageconfig import ImageConfig
from agent.store.database import Database
from tests.host.registry import Registry, entry, make_tar

pytestmark = pytest.mark.host
LIBC = ctypes.CDLL(None, use_errno=True)
MIB = 1 << 20


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = ImageStore(tmp_path, Database(tmp_path / "holdfast.db"))
    yield opened
    opened.close()


def push(registry: Registry, name: str, *sizes: int) -> str:
    """An image of incompressible layers."""
    return registry.push_layers(name, [make_tar([entry(f"f{size}", os.urandom(size))]) for size in sizes])


def collect(store: ImageStore, *needed: str, used: tuple[str, ...] = (), **marks: float) -> ImageCollection:
    collection = ImageCollection(store, lambda: used, frozenset, Watermarks(**{"min_age": 0.0, **marks}))
    collection.ask(lambda: needed)
    return collection


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
    assert collection.relieve(urgent=True).images == ()
    assert store.find(image.id) is not None


def test_what_is_held_or_built_upon_stays(registry: Registry, store: ImageStore, tmp_path: Path) -> None:
    held, base, old = (store.pull(push(registry, f"busy:{number}", 1000)) for number in range(3))
    collection = collect(store)
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
    collection = ImageCollection(store, tuple, lambda: cached, Watermarks(min_age=0.0))
    collection.ask(frozenset)
    assert [gone for gone, _ in collection.prune().images] == [image.id]
    assert store.snapshots.find(layer.chain_id) is not None
    assert store.content.size(layer.descriptor.digest) == layer.descriptor.size


def test_watermark_removes_the_longest_unused_until_the_low_one(registry: Registry) -> None:
    with small_disk(20 * MIB) as disk:
        database = Database(disk / "holdfast.db")
        store = ImageStore(disk, database)
        images = [store.pull(push(registry, f"mark:{number}", 3 * MIB // 2)) for number in range(5)]
        store.lowerdirs(images[0].id)  # the oldest is used again
        kept = store.find(images[1].id)
        assert kept is not None
        store.close()
        collection = collect(store, images[1].names[0], high=70.0, low=60.0)
        assert 75 < collection.fill_level() < 90
        told: list[tuple[str, str]] = []
        collection.report_to(lambda reason, message: told.append((reason, message)))
        outcome = collection.relieve()
        assert told[0][0] == "ImagesCollected"
        assert images[2].names[0] in told[0][1]
        assert [image for image, _ in outcome.images] == [images[2].id, images[3].id]
        assert collection.fill_level() < 60
        assert (collection.tally.runs, collection.tally.short, collection.tally.images) == (1, 0, 2)
        assert collection.tally.freed == outcome.freed > 6 * MIB
        assert collection.relieve().images == (), "below the watermark nothing goes"
        strict = collect(store, *(image.names[0] for image in images), high=1.0, low=0.5)
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
        collection = collect(store, kept.names[0], high=100.0, low=50.0)
        images = Images(store, None, collection, dict)  # type: ignore[arg-type]
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
        collection = collect(store, kept.names[0], high=70.0, low=60.0)
        collection.start()
        with pytest.raises(OSError, match="No space"), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        assert [image for image, _ in collection.relieve().images] == [gone.id]
        assert [image.id for image in store.all()] == [kept.id]
        assert collection.fill_level() < 90
        collection.close()
        store.close()
        database.close()


def test_the_watch_removes_what_is_too_much_after_a_pull(registry: Registry) -> None:
    with small_disk(12 * MIB) as disk:
        database = Database(disk / "holdfast.db")
        store = ImageStore(disk, database)
        collection = collect(store, high=60.0, low=55.0)
        images = Images(store, None, collection, dict)  # type: ignore[arg-type]
        collection.start()
        first = images.pull(push(registry, "watch:1", 5 * MIB // 2))
        images.pull(push(registry, "watch:2", 3 * MIB // 2))
        eventually(lambda: store.find(first.id) is None, what="the older image is gone")
        collection.close()
        store.close()
        database.close()


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


@pytest.fixture(scope="module")
def lab() -> Iterator[EngineLab]:
    with open_engine() as opened:
        opened.engine.images.collection.ask(frozenset)
        yield opened


def test_images_of_containers_are_not_removed(lab: EngineLab) -> None:
    images = lab.engine.images
    image = lab.build("lab/removed", "ENV REMOVED=1\n")
    images.tag(image, "lab/second")
    record = lab.start("removal", "sleep", "60", image=image)
    try:
        assert images.remove("lab/second").names == ("lab/second:latest",)
        with pytest.raises(Conflict, match="removal"):
            images.remove("lab/removed")
        assert image not in [gone for gone, _ in images.prune(named=True).images]
        forced = images.remove("lab/removed", force=True)
        assert (forced.names, forced.id) == (("lab/removed:latest",), "")
        assert image not in [gone for gone, _ in images.prune().images], "nameless, but a container runs on it"
        assert lab.exec(record, "true")[0] == 0
    finally:
        lab.engine.containers.stop(record.id, 0.1).result()
        lab.engine.containers.remove(record.id)
    assert image in [gone for gone, _ in images.prune().images]
    lab.image = lab.build("lab/busybox")


def test_needed_images_are_not_removed_by_hand(lab: EngineLab) -> None:
    images = lab.engine.images
    image = lab.build("lab/needed", "ENV NEEDED=1\n")
    images.collection.ask(lambda: ["lab/needed"])
    with pytest.raises(Conflict, match="an app needs"):
        images.remove(image)
    images.collection.ask(lambda: None)
    with pytest.raises(Waiting):
        images.remove(image)
    images.collection.ask(frozenset)
    images.tag(image, "lab/other")
    with pytest.raises(Conflict, match="2 names"):
        images.remove(image)
    gone = images.remove(image, force=True)
    assert gone.id == image
    assert images.find("lab/needed") is None


def test_starts_race_with_collections(lab: EngineLab) -> None:
    """A container starts, or says that its image is gone; it never runs on half an image."""
    images = lab.engine.images
    stop = threading.Event()

    def prune() -> None:
        while not stop.is_set():
            images.prune(named=True)
            time.sleep(0.005)

    pruner = threading.Thread(target=prune)
    started = 0
    image = lab.build("lab/raced", "ENV RACED=1\n")
    pruner.start()
    try:
        for number in range(12):
            try:
                record = lab.start(f"raced-{number}", "sh", "-c", "test -x /bin/busybox", image=image)
            except ImageNotFound:
                image = lab.build("lab/raced", "ENV RACED=1\n")
                continue
            started += 1
            assert lab.wait(record).code == 0
            lab.engine.containers.remove(record.id)
    finally:
        stop.set()
        pruner.join()
    assert started
    assert images.collection.tally.runs == 0
    lab.image = lab.build("lab/busybox")


def test_nothing_of_a_build_under_way_goes(lab: EngineLab, tmp_path: Path) -> None:
    """Everything unneeded is removed at each of its steps: the image it begins with, and its own layers, stay."""
    images = lab.engine.images
    base = lab.build("lab/begin", "ENV BEGIN=1\n")
    text = (
        "FROM lab/begin\nRUN echo one >/one\nRUN cat /one >/two\nCOPY Dockerfile /three\nRUN cat /two /three >/four\n"
    )
    (tmp_path / "Dockerfile").write_text(text)
    reports = []

    def prune(report: object) -> None:
        reports.append(report)
        assert base not in [gone for gone, _ in images.prune(named=True).images]

    built = images.build(BuildConfig(str(tmp_path), "lab/end"), progress=prune)
    assert len(reports) > 3
    lab.image = built.id
    assert lab.run("end", "cat /four") == "one\n" + text
    gone = [image for image, _ in images.prune(named=True).images]
    assert {base, built.id} <= set(gone)
    lab.image = lab.build("lab/busybox")


def test_device_nodes_of_an_image_open_nothing(lab: EngineLab, tmp_path: Path) -> None:
    """They are unpacked as they are (attack row 37), and dead in every container, also as root with mknod."""
    tree = tmp_path / "tree"
    (tree / "nodes").mkdir(parents=True)
    memory, disk = tree / "nodes" / "memory", tree / "nodes" / "disk"
    os.mknod(memory, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.mknod(disk, stat.S_IFBLK | 0o666, Path("/").stat().st_dev)
    store = lab.engine._parts.images
    lab.image = lab.build("lab/busybox")
    below = store.layers(lab.image)
    layer = store.commit_layer(tree, parents=[one.chain_id for one in below])
    image = store.add_image(store.config(lab.image), [*below, layer], "lab/nodes")
    script = "cd /nodes; stat -c '%F' *; for node in *; do head -c1 $node && echo OPENED; done; true"
    record = lab.shell("nodes", f"({script}) 2>&1", image=image.id)
    assert lab.wait(record).code == 0
    output = lab.output(record)
    lab.engine.containers.remove(record.id)
    assert "block special file" in output
    assert "character special file" in output
    assert output.count("Permission denied") == 2
    assert "OPENED" not in output


def test_shares_add_up(lab: EngineLab) -> None:
    lab.image = lab.build("lab/busybox")
    image = lab.build("lab/share", "ENV SHARE=1\n")
    shares = {share.id: share for share in lab.engine.images.shares()}
    assert shares[image].unique < shares[image].size
    assert shares[lab.image].containers == 0

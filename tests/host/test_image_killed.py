"""The image store killed with SIGKILL at places spread over all steps of what it does: nothing is wrong afterwards."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.engine.collector import ImageCollection
from agent.image.config import RegistryConfig
from agent.image.storage.records import ImageEntry
from agent.image.store import ImageStore
from agent.oci.imageconfig import ImageConfig
from agent.store.database import Database
from tests.host.killlab import killed_at
from tests.host.registry import Registry, directory, entry, make_tar

pytestmark = pytest.mark.host
PLACES = 8


@pytest.fixture(scope="module")
def reference(registry: Registry) -> str:
    below = make_tar([directory("d"), entry("d/f", os.urandom(300_000)), entry("d/gone", b"gone")])
    return registry.push_layers("killed:1", [below, make_tar([entry("d/.wh.gone"), entry("d/g", b"two")])])


def open_store(root: Path, apart_from: int = RegistryConfig.apart_from) -> ImageStore:
    """Layers of ``apart_from`` packed bytes are kept as images of their own."""
    root.mkdir(exist_ok=True)
    return ImageStore(root, Database(root / "holdfast.db"), RegistryConfig(apart_from=apart_from))


def assert_clean(store: ImageStore, *images: ImageEntry) -> None:
    """These images are whole; what else is there is no image's, and goes at the next prune."""
    assert store.verify(tuple, repair=False) == ()
    assert {image.id for image in store.all()} == {image.id for image in images}
    store.prune(min_age=0.0)
    assert set(store.content.all()) == {blob for image in images for blob in image.blobs}
    assert not list((store.content.root / "ingest").iterdir())
    chains = {chain for image in images for chain in image.chains}
    assert {snapshot.chain for snapshot in store.snapshots.all()} == chains
    assert len(list(store.snapshots.root.iterdir())) == len(chains)


@pytest.mark.parametrize("apart_from", [1 << 40, 0], ids=["files", "images"])
def test_killed_pull(reference: str, tmp_path: Path, apart_from: int) -> None:
    def pull(number: int) -> Callable[[], object]:
        def pull_and_mount() -> None:
            store = open_store(tmp_path / str(number), apart_from)
            store.lowerdirs(store.pull(reference).id)

        return pull_and_mount

    for number in killed_at(pull, PLACES if apart_from else PLACES // 2):
        store = open_store(tmp_path / str(number), apart_from)
        assert store.verify(tuple, repair=False) == ()
        image = store.pull(reference)
        assert (store.lowerdirs(image.id)[0] / "d" / "g").read_bytes() == b"two"
        assert_clean(store, image)
        store.close()
    open_store(tmp_path / "0").close()


def test_killed_build_of_a_layer(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "f").write_bytes(os.urandom(200_000))

    def build(store: ImageStore) -> ImageEntry:
        layer = store.commit_layer(tree)
        return store.add_image(ImageConfig("amd64", "linux"), [layer], "built:1")

    for number in killed_at(lambda number: lambda: build(open_store(tmp_path / str(number))), PLACES):
        store = open_store(tmp_path / str(number))
        assert store.verify(tuple, repair=False) == ()
        image = build(store)
        assert (store.lowerdirs("built:1")[0] / "sub" / "f").stat().st_size == 200_000
        assert_clean(store, image)
        store.close()


def from_copies(origin: Path, work: Callable[[ImageStore], object]) -> Callable[[int], Callable[[], object]]:
    """``work`` on a copy of a store for each number."""

    def prepare(number: int) -> Callable[[], object]:
        root = origin.with_name(str(number))
        subprocess.run(["cp", "-a", origin, root], check=True)
        return lambda: work(open_store(root))

    return prepare


@pytest.mark.parametrize("apart_from", [1 << 40, 0], ids=["files", "images"])
def test_killed_collection(registry: Registry, tmp_path: Path, apart_from: int) -> None:
    first = open_store(tmp_path / "origin", apart_from)
    shared = make_tar([entry("shared", b"s" * 5000)])
    needed = first.pull(registry.push_layers("gc:keep", [shared, make_tar([entry("own", b"own")])]))
    for number in range(3):
        first.pull(registry.push_layers(f"gc:{number}", [shared, make_tar([entry("x", os.urandom(1000))])]))
    first.close()

    def collect(store: ImageStore) -> None:
        collection = ImageCollection(store, tuple, frozenset)
        collection.ask(lambda: [needed.id])
        collection.prune(named=True)

    for number in killed_at(from_copies(tmp_path / "origin", collect), PLACES):
        store = open_store(tmp_path / str(number))
        assert store.verify(tuple, repair=False) == ()
        collect(store)
        assert (store.lowerdirs(needed.id)[0] / "own").read_bytes() == b"own"
        assert_clean(store, needed)
        store.close()


def test_killed_repair(reference: str, tmp_path: Path) -> None:
    first = open_store(tmp_path / "origin")
    image = first.pull(reference)
    first.content.path(image.blobs[-1]).write_bytes(b"damaged")
    (first.lowerdirs(image.id)[1] / "d" / "f").write_bytes(b"damaged")
    first.close()
    for number in killed_at(from_copies(tmp_path / "origin", lambda store: store.verify(tuple)), PLACES):
        store = open_store(tmp_path / str(number))
        assert all(finding.repaired for finding in store.verify(tuple))
        (repaired,) = store.all()
        assert repaired.names == image.names
        assert_clean(store, image)
        store.close()

"""Whatever is damaged in the store is found, and repaired where that can be; the rest is said with what to do."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.image.config import RegistryConfig
from agent.image.errors import PullCancelled
from agent.image.layers.compare import compare_trees
from agent.image.storage.records import ImageEntry
from agent.image.store import ImageStore
from agent.image.verify import Finding, VerifyProgress
from agent.oci.imageconfig import ImageConfig
from agent.store.database import Database
from tests.host.registry import Registry, directory, entry, make_tar

pytestmark = pytest.mark.host
LAYERS = [
    make_tar([directory("d", 0o750, uid=7), entry("d/f", b"one" * 1000), entry("d/gone", b"gone")]),
    make_tar([entry("d/.wh.gone"), entry("d/g", b"two"), entry("deep/er/h", b"three")]),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    config = RegistryConfig(backoff=0.01, attempts=2)
    opened = ImageStore(tmp_path, Database(tmp_path / "holdfast.db"), config)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def reference(registry: Registry) -> str:
    return registry.push_layers("verify:1", LAYERS)


@pytest.fixture(scope="module")
def shared(registry: Registry) -> str:
    """An image of the other's lower layer."""
    return registry.push_layers("verify:2", LAYERS[:1])


def verify(store: ImageStore, *used: str, repair: bool = True) -> tuple[Finding, ...]:
    return store.verify(lambda: used, repair=repair)


def damage(path: Path, data: bytes = b"\xff") -> None:
    with path.open("r+b") as file:
        file.seek(max(0, path.stat().st_size // 2))
        file.write(data)


BLOBS = {"layer": -1, "manifest": 0, "config": 2}


@pytest.mark.parametrize(
    ("which", "how"),
    [("layer", "damaged"), ("layer", "missing"), ("layer", "cut"), ("manifest", "damaged"), ("config", "missing")],
)
def test_blob_is_pulled_again_by_its_digest(registry: Registry, store: ImageStore, which: str, how: str) -> None:
    reference = registry.push_layers("blob:1", LAYERS)
    image = store.pull(reference)
    registry.push_layers("blob:1", [make_tar([entry("moved", b"the tag has moved")])])
    path = store.content.path(image.blobs[BLOBS[which]])
    if how == "missing":
        path.unlink()
    elif how == "cut":
        os.truncate(path, 10)
    else:
        damage(path)
    (told,) = verify(store, repair=False)
    assert (told.kind, told.key, told.repaired) == ("blob", image.blobs[BLOBS[which]], False)
    (found,) = verify(store, image.id)
    assert found.repaired, found
    assert found.images == (reference,)
    assert verify(store) == ()
    assert store.find(reference) == store.find(image.id), "it has its name, and no other"
    assert [len(one.names) for one in store.all()] == [1]


SPOILS: dict[str, tuple[int, Callable[[Path], None]]] = {
    "content": (0, lambda root: damage(root / "d" / "f")),
    "mode": (0, lambda root: (root / "d").chmod(0o755)),
    "owner": (0, lambda root: os.chown(root / "d", 8, 0)),
    "missing": (0, lambda root: (root / "d" / "gone").unlink()),
    "more": (0, lambda root: (root / "more").write_bytes(b"")),
    "xattr": (0, lambda root: os.setxattr(root / "d" / "f", "user.more", b"1")),
    "link": (0, lambda root: os.link(root / "d" / "f", root / "d" / "f2")),
    "type": (0, lambda root: ((root / "d" / "f").unlink(), (root / "d" / "f").symlink_to("/etc/passwd"))[0]),
    "whiteout": (1, lambda root: (root / "d" / "gone").unlink()),
    "implied directory": (1, lambda root: (root / "deep").chmod(0o700)),
    "root": (1, lambda root: root.chmod(0o700)),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_snapshot_is_unpacked_again_from_its_blob(store: ImageStore, reference: str, shared: str, spoil: str) -> None:
    image = store.pull(reference)
    other = store.pull(shared)
    number, change = SPOILS[spoil]
    root = store.lowerdirs(image.id)[1 - number]
    change(root)
    (told,) = verify(store, repair=False)
    assert (told.kind, told.key, told.repaired) == ("snapshot", image.chains[number], False)
    assert reference in told.images
    (kept,) = verify(store, image.id)
    assert (kept.repaired, kept.advice) == (False, "containers use it: remove them, then verify again")
    assert store.lowerdirs(image.id)[1 - number] == root
    (found,) = verify(store)
    assert found.repaired, found
    assert not root.exists()
    assert verify(store) == ()
    assert sorted(path.name for path in store.snapshots.root.iterdir()) == ["2", "3"] or number
    assert other.chains[0] == image.chains[0]


def test_what_cannot_be_repaired_is_said(registry: Registry, store: ImageStore, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "f").write_bytes(os.urandom(1000))
    layer = store.commit_layer(tree)
    made = store.add_image(ImageConfig("amd64", "linux"), [layer], "made/here:1")
    damage(store.content.path(layer.descriptor.digest))
    gone = store.pull(registry.push_layers("gone:1", [make_tar([entry("g", b"g")])]))
    with Registry() as dying:
        lost = store.pull(dying.push_layers("lost:1", [make_tar([entry("l", b"l")])]))
    for image in (gone, lost):
        store.content.path(image.blobs[-1]).unlink()
    store.unname(gone.id)
    found = {finding.images[0]: finding for finding in verify(store)}
    assert not any(finding.repaired for finding in found.values())
    assert found["made/here:1"].advice.endswith("(build or load it again)")
    assert "no name" in found[str(gone.id)[:19]].advice
    assert "connection refused" in found[lost.names[0]].advice
    assert made.local


def test_image_of_another_platform_is_pulled_again(registry: Registry, store: ImageStore) -> None:
    layout = registry.layout()
    reference = registry.push(layout, layout.image(LAYERS, architecture="arm64"), "foreign:1")
    image = store.pull(reference, platform="linux/arm64")
    store.content.path(image.blobs[-1]).unlink()
    (found,) = verify(store)
    assert found.repaired, found
    assert store.find(image.id) == replace(image, pulled=store.all()[0].pulled)


def test_what_no_image_needs_is_dropped(store: ImageStore, reference: str) -> None:
    image = store.pull(reference)
    stray = store.content.write(b"stray")
    damage(store.content.path(stray))
    (found,) = verify(store)
    assert (found.key, found.images, found.repaired) == (stray, (), True)
    assert store.content.size(stray) is None
    assert verify(store) == ()
    assert store.find(image.id) == image


def test_missing_snapshot_comes_back(store: ImageStore, reference: str) -> None:
    image = store.pull(reference)
    store.snapshots.remove(image.chains)
    found = verify(store)
    assert [(one.key, one.problem, one.repaired) for one in found] == [
        (chain, "is missing", True) for chain in image.chains
    ]
    assert (store.lowerdirs(image.id)[0] / "d" / "g").read_bytes() == b"two"


def test_progress_and_cancel(store: ImageStore, reference: str) -> None:
    image = store.pull(reference)
    seen: list[VerifyProgress] = []
    store.verify(tuple, progress=seen.append)
    assert [report.done for report in seen] == list(range(len(image.blobs) - 1 + len(image.chains)))
    assert {report.total for report in seen} == {len(seen)}
    cancel = threading.Event()

    def stop(report: VerifyProgress) -> None:
        if report.done == 2:
            cancel.set()

    with pytest.raises(PullCancelled):
        store.verify(tuple, progress=stop, cancel=cancel)
    assert not list(store.snapshots.root.glob("tmp-*"))


def test_removed_meanwhile_is_no_damage(store: ImageStore, reference: str) -> None:
    image: ImageEntry = store.pull(reference)

    def remove(report: VerifyProgress) -> None:
        if report.done == 4 and store.find(image.id):
            store.remove(image.id)
            store.prune(min_age=0.0)

    assert store.verify(tuple, progress=remove) == ()


def test_links_have_to_be_the_same(tmp_path: Path) -> None:
    for side in ("one", "other"):
        (tmp_path / side).mkdir()
        for name in ("a", "b", "c", "d"):
            (tmp_path / side / name).touch()
            os.utime(tmp_path / side / name, (0, 0))
        os.utime(tmp_path / side, (0, 0))
    assert list(compare_trees(tmp_path / "one", tmp_path / "other")) == []
    for side, name, source in (("one", "b", "a"), ("other", "d", "c")):
        (tmp_path / side / name).unlink()
        os.link(tmp_path / side / source, tmp_path / side / name)
        os.utime(tmp_path / side, (0, 0))
    found = list(compare_trees(tmp_path / "one", tmp_path / "other"))
    assert found == ["'b' is linked with other files", "'d' is linked with other files"]


def test_trees_deeper_than_a_path(tmp_path: Path) -> None:
    """No path is ever spelt out, so that one longer than PATH_MAX can be compared."""
    for side in ("one", "other"):
        (tmp_path / side).mkdir()
        fd = os.open(tmp_path / side, os.O_RDONLY)
        for _ in range(40):
            os.mkdir("n" * 200, dir_fd=fd)
            inner = os.open("n" * 200, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = inner
        os.close(os.open("end", os.O_CREAT | os.O_WRONLY, 0o600 if side == "one" else 0o644, dir_fd=fd))
        os.utime("end", (0, 0), dir_fd=fd)
        os.close(fd)
    found = [
        problem for problem in compare_trees(tmp_path / "one", tmp_path / "other") if "another time" not in problem
    ]
    assert len(found) == 1
    assert found[0].endswith("has another mode")

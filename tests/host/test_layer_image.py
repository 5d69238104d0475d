"""Large layers as EROFS images: the same tree as one of files, refused for the same reasons, mounted while needed."""

from __future__ import annotations

import os
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from enginelab import open_engine
from hypothesis import HealthCheck, given, settings

from agent.engine.model import BuildConfig
from agent.errors import Refused
from agent.image.config import RegistryConfig
from agent.image.erofs.layerimage import MAX_ENTRIES, ImageWriter
from agent.image.erofs.layermounts import LayerMounts
from agent.image.errors import HostileLayer, StorageFailed, UnfitForImage
from agent.image.layers.compare import compare_trees
from agent.image.layers.layerwriter import LayerWriter
from agent.image.layers.unpack import Unpacker
from agent.image.limits import UnpackLimits
from agent.image.store import ImageStore
from agent.runtime.imageview import merged_view
from agent.store.database import Database
from tests.host.registry import Registry, busybox_layer, directory, entry, make_tar
from tests.host.test_image_hostile import GNU, HOSTILE
from tests.host.test_image_oracles import machine_tree, pack_with_tar
from tests.host.treelab import LAYERS, TreeMaker

pytestmark = pytest.mark.host
LIMITS = UnpackLimits(layer_bytes=64 << 20, entries=30_000)
MIB = 1 << 20


class Pair:
    """Layers kept in both ways below a directory, each upon the ones before."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._mounts = LayerMounts(root)
        self._files: list[Path] = []
        self._images: list[Path] = []

    def add(self, tar: bytes) -> tuple[Path, Path]:
        """The layer as a tree of files, and as the mounted image."""
        place = self._root / str(len(self._files))
        (place / "files").mkdir(parents=True)
        (place / "files").chmod(0o755)
        (place / "fs").mkdir()
        write(Unpacker(place / "files", LIMITS), tar, self._files)
        write(ImageWriter(place / "image", LIMITS), tar, self._images)
        self._mounts.attach(place / "image", place / "fs")
        self._files.insert(0, place / "files")
        self._images.insert(0, place / "fs")
        return self._files[0], self._images[0]

    def close(self) -> None:
        for image in self._images:
            self._mounts.detach(image)


def write(writer: LayerWriter, tar: bytes, lower: list[Path] | None = None) -> None:
    with closing(writer):
        writer.unpack(tar[start : start + 100_000] for start in range(0, len(tar), 100_000))
    writer.settle(lower or ())


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.close()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(LAYERS)
def test_image_equals_tree(drawn: list[Any]) -> None:
    maker = TreeMaker()
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as name, closing(Pair(Path(name))) as pair:
        for operations, form in drawn:
            files, image = pair.add(maker.layer(operations, form))
            assert list(compare_trees(image, files)) == []


ODD: dict[str, list[Any]] = {
    "nothing": [],
    "described twice": [directory("d", 0o700), entry("d/f", b"1"), directory("d", 0o711, uid=3)],
    "file for directory": [directory("d"), entry("d/f", b"1"), entry("d", b"file")],
    "directory for file": [entry("d", b"file"), directory("d"), entry("d/f", b"1")],
    "linked and replaced": [entry("a", b"1"), entry("b", kind=tarfile.LNKTYPE, linkname="a"), entry("a", b"2")],
    "link upon a tree": [
        entry("a", b"1"),
        directory("t"),
        entry("t/x"),
        entry("t", kind=tarfile.LNKTYPE, linkname="a"),
    ],
    "implied": [entry("a/b/c/d", b"1"), entry("a/.wh.gone"), entry("a/b/.wh..wh..opq")],
    "gone and made": [entry(".wh.d"), entry("d/f", b"1"), directory("d", 0o700)],
    "gone, then implied": [entry(".wh.d"), entry("d/f", b"1")],
    "the root": [directory("./", 0o710, uid=5, mtime=7), entry("./f", b"1")],
    "many names": [entry(f"d/{'n' * (1 + number % 250)}{number}", b"x") for number in range(900)],
    "a long link": [entry("l", kind=tarfile.SYMTYPE, linkname="x/" * 2000)],
    "large attributes": [entry("f", b"1", pax_headers={f"SCHILY.xattr.user.{n}": "v" * 700 for n in range(4)})],
    "before the epoch": [entry("f", b"1", mtime=-1.5)],
}


@pytest.mark.parametrize("name", ODD)
def test_odd_layers_are_the_same(pair: Pair, name: str) -> None:
    pax = {"SCHILY.xattr.trusted.low": "y", "SCHILY.xattr.user.low": "z" * 300}
    pair.add(make_tar([directory("a", 0o1750, uid=9, gid=8, mtime=77, pax_headers=pax), directory("a/b")]))
    files, image = pair.add(make_tar(ODD[name]))
    assert list(compare_trees(image, files)) == []
    for path in files.rglob("*"):
        if not path.is_dir():
            assert path.lstat().st_nlink == (image / path.relative_to(files)).lstat().st_nlink


def test_system_tree_is_the_same(pair: Pair, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    machine_tree(root, ("base-files", "dash", "debianutils"))
    files, image = pair.add(pack_with_tar(root, "posix"))
    assert list(compare_trees(image, files)) == []
    log = image / "var/log/lastlog"
    with log.open("rb") as file:
        assert os.lseek(file.fileno(), 2 * MIB, os.SEEK_DATA) == 5 * MIB, "holes are holes for whoever copies it"


def test_a_file_with_large_holes_takes_no_room(pair: Pair, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with (root / "sparse").open("wb") as file:
        for offset in (0, 3 * MIB + 5, 40 * MIB):
            file.seek(offset)
            file.write(b"data")
        file.truncate(63 * MIB)
    files, image = pair.add(pack_with_tar(root, "posix"))
    assert list(compare_trees(image, files)) == []
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("image")) < MIB


def test_the_tree_in_memory_is_bounded(tmp_path: Path) -> None:
    """Empty directories: a header and little more for each."""
    tar = b"".join(tarfile.TarInfo(f"{number}").tobuf() for number in range(MAX_ENTRIES + 1))
    with pytest.raises(UnfitForImage):
        write(ImageWriter(tmp_path / "image", LIMITS), tar)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "many-entries"])
def test_refused_in_the_same_words(tmp_path: Path, name: str) -> None:
    form = GNU if name in ("absolute", "long-path", "links-longer-than-paths") else tarfile.PAX_FORMAT
    tar = make_tar(HOSTILE[name](tmp_path / "decoy"), form)
    (tmp_path / "files").mkdir()
    said = []
    for writer in (Unpacker(tmp_path / "files", LIMITS), ImageWriter(tmp_path / "image", LIMITS)):
        try:
            write(writer, tar)
            said.append("")
        except (HostileLayer, UnfitForImage) as error:
            said.append("" if isinstance(error, UnfitForImage) else error.message)
    unfit = name in ("xattr-nobody-has", "a-capability-that-is-none")
    assert said[0] == said[1] or (unfit and not said[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files", "image"]


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as running:
        yield running


@contextmanager
def opened(root: Path) -> Iterator[ImageStore]:
    """A store that keeps layers of any size as images."""
    root.mkdir(exist_ok=True)
    database = Database(root / "db")
    store = ImageStore(root, database, RegistryConfig(limits=LIMITS, backoff=0.01, attempts=2, apart_from=0))
    with closing(database), closing(store):
        yield store


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A data root; the mounts that are left in it are taken away."""
    yield tmp_path / "data"
    for tree in (tmp_path / "data" / "snapshots").glob("*/fs"):
        with suppress(subprocess.CalledProcessError):
            while tree.is_mount():
                subprocess.run(["umount", tree], check=True)


TWO = [
    make_tar([directory("d", 0o750, uid=7), entry("d/f", b"one" * 1000), entry("d/gone", b"gone")]),
    make_tar([entry("d/.wh.gone"), entry("d/g", b"two"), entry("deep/er/h", b"three")]),
]


def test_a_pulled_image_is_mounted_while_it_is_kept(registry: Registry, root: Path) -> None:
    reference = registry.push_layers("mounted:1", TWO)
    with opened(root) as store:
        image = store.pull(reference)
        upper, lower = store.lowerdirs(image.id)
        assert upper.is_mount() and lower.is_mount()
        assert (upper / "d").stat().st_uid == 7, "what was not described is as below"
        assert store.verify(tuple, repair=False) == ()
    assert not upper.is_mount()
    with opened(root) as store:
        assert store.lowerdirs(image.id) == (upper, lower)
        with opened(root) as other:  # as after a kill
            assert other.lowerdirs(image.id) == (upper, lower)
            assert Path("/proc/self/mounts").read_text().count(f" {upper} ") == 1
        for _ in range(2):
            store.lowerdirs(image.id)
            subprocess.run(["umount", upper], check=True)
            assert not upper.is_mount()
            assert (store.lowerdirs(image.id)[0] / "d" / "g").read_bytes() == b"two", "mounted again when needed"
        store.remove(reference)
        store.prune(min_age=0.0)
        assert list(store.snapshots.root.iterdir()) == []
        again = store.pull(reference)
        assert all(path.is_mount() for path in store.lowerdirs(again.id))
    assert not any(path.is_mount() for path in store.snapshots.root.glob("*/fs"))


@pytest.mark.parametrize("where", [1024, "data", "metadata"])
def test_a_damaged_image_is_found_and_repaired(registry: Registry, root: Path, where: Any) -> None:
    reference = registry.push_layers("damaged:1", TWO)
    with opened(root) as store:
        image = store.pull(reference)
        path = store.lowerdirs(image.id)[1].parent / "layer.erofs"
        store.snapshots.close()
        data = path.read_bytes()
        at = {"data": data.find(b"oneone"), "metadata": struct.unpack_from("<I", data, 1024 + 40)[0] * 512 + 64}
        with path.open("r+b") as file:
            file.seek(at.get(where, where))
            file.write(b"\xff" * 64)
        if where != "data":
            with pytest.raises((StorageFailed, OSError)):
                (store.lowerdirs(image.id)[1] / "d" / "f").read_bytes()
        (found,) = store.verify(tuple, repair=True)
        assert found.repaired, found
        assert (store.lowerdirs(image.id)[1] / "d" / "f").read_bytes() == b"one" * 1000
        assert store.verify(tuple, repair=False) == ()


def test_a_data_root_of_any_name(registry: Registry, tmp_path: Path) -> None:
    root = tmp_path / "a b:c,d\\e\n'%41\"=ü\udcff" / "data"
    root.parent.mkdir()
    with opened(root) as store:
        layers = store.lowerdirs(store.pull(registry.push_layers("named:1", TWO)).id)
        assert all(layer.is_mount() for layer in layers)
        with merged_view(layers) as view:
            assert Path(f"/proc/self/fd/{view}/d/g").read_bytes() == b"two"


def test_a_trial_that_fails_for_a_passing_reason_is_made_again(tmp_path: Path) -> None:
    subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", tmp_path], check=True)
        mounts = LayerMounts(tmp_path)
        assert (mounts.supported, mounts.impossible) == (False, False)
        subprocess.run(["mount", "-o", "remount,bind,rw", tmp_path], check=True)
        assert mounts.supported
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_no_container_starts_upon_a_layer_that_is_lost(registry: Registry, root: Path) -> None:
    reference = registry.push_layers("lost:1", TWO)
    with opened(root) as store:
        image = store.pull(reference)
        lost = store.lowerdirs(image.id)[1]
        for again in (False, True):
            store.snapshots.close()
            (lost.parent / "layer.erofs").unlink()
            with pytest.raises(StorageFailed):
                store.lowerdirs(image.id)
            if not again:
                (found,) = store.verify(tuple, repair=True)
                assert found.repaired
                lost = store.lowerdirs(image.id)[0]
    with opened(root) as store:
        assert len(store.snapshots.all()) == 1, "what is lost is not there"
        assert store.pull(reference, policy="never").id == image.id
        assert (store.lowerdirs(image.id)[0] / "d" / "g").read_bytes() == b"two"


def test_what_cannot_be_mounted_can_be_removed(registry: Registry, root: Path) -> None:
    reference = registry.push_layers("unmountable:1", TWO)
    with opened(root) as store:
        image = store.pull(reference)
        path = store.lowerdirs(image.id)[0].parent / "layer.erofs"
        store.snapshots.close()
        path.write_bytes(bytes(4096))
        with pytest.raises(StorageFailed, match="cannot be mounted"):
            store.lowerdirs(image.id)
        assert store.prune(min_age=0.0).snapshots == 0
        assert not any(tree.is_mount() for tree in store.snapshots.root.glob("*/fs")), "to look at its age needs none"
        store.remove(reference)
        assert store.prune(min_age=0.0).snapshots == 2
        assert list(store.snapshots.root.iterdir()) == []


def test_an_image_of_an_earlier_boot_that_was_not_flushed_goes(registry: Registry, root: Path) -> None:
    reference = registry.push_layers("boot:1", TWO)
    with opened(root) as store:
        image = store.pull(reference)
        markers = [path.parent / "chain.json" for path in store.lowerdirs(image.id)]
    for marker in markers:
        text = marker.read_text()
        marker.write_text(text.replace('"boot": "', '"boot": "earlier'))
    with opened(root) as store:
        assert store.snapshots.all() == ()
        assert list(store.snapshots.root.iterdir()) == []
        assert store.pull(reference, policy="never").chains == image.chains


ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *parts)
    for parts in ((1, 6, 2**32 - 1), (2, 6, 1000), (4, 4, 2**32 - 1), (16, 6, 2**32 - 1), (32, 4, 2**32 - 1))
)
UNFIT: dict[str, Any] = {
    "many attributes": [entry(f"{number}", pax_headers={"SCHILY.xattr.user.x": "x" * 3900}) for number in range(2800)],
    "an access list": [
        entry("f", b"x", pax_headers={"SCHILY.xattr.system.posix_acl_access": ACL.decode("utf-8", "surrogateescape")})
    ],
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_no_image_can_hold_is_unpacked_to_files(registry: Registry, root: Path, name: str) -> None:
    with opened(root) as store:
        image = store.pull(registry.push_layers(f"unfit{list(UNFIT).index(name)}:1", [TWO[0], make_tar(UNFIT[name])]))
        upper, lower = store.lowerdirs(image.id)
        assert lower.is_mount() and not upper.is_mount()
        assert len(list(upper.iterdir())) == len(UNFIT[name])
        assert not (upper.parent / "layer.erofs").exists()


def test_what_is_refused_leaves_nothing(registry: Registry, root: Path) -> None:
    with opened(root) as store:
        bad = make_tar([entry("d/f", b"x" * 1000), entry("../escape", b"x")])
        with pytest.raises(Refused, match="unsafe name"):
            store.pull(registry.push_layers("refused:1", [TWO[0], bad]))
        assert list(store.snapshots.root.iterdir()) == []


def test_files_where_nothing_can_be_mounted_upon_an_image(registry: Registry, tmp_path: Path) -> None:
    """A data root on an overlay, as in a container: overlayfs does not stack so high."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    with opened(tmp_path / "lower" / "moved") as store:
        moved = store.pull(registry.push_layers("moved:1", TWO[:1]))
        assert store.lowerdirs(moved.id)[0].is_mount()
    options = ",".join(f"{key}={tmp_path / key.removesuffix('dir')}" for key in ("lowerdir", "upperdir", "workdir"))
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, tmp_path / "merged"], check=True)
    try:
        with opened(tmp_path / "merged" / "data") as store:
            assert not store.snapshots.mounts.supported
            image = store.pull(registry.push_layers("stacked:1", TWO[:1]))
            assert (store.lowerdirs(image.id)[0] / "d" / "f").read_bytes() == b"one" * 1000
            assert not store.lowerdirs(image.id)[0].is_mount()
        with opened(tmp_path / "merged" / "moved") as store:
            assert store.snapshots.all() == ()
            again = store.pull(moved.names[0], policy="never")
            assert (store.lowerdirs(again.id)[0] / "d" / "f").read_bytes() == b"one" * 1000
    finally:
        subprocess.run(["umount", tmp_path / "merged"], check=True)


def test_containers_and_builds_stand_upon_images(registry: Registry) -> None:
    large = make_tar([directory("data", 0o755), entry("data/noise", os.urandom(6 * MIB)), entry("data/f", b"below")])
    reference = registry.push_layers("large:1", [busybox_layer(), large], config={"Env": ["PATH=/bin"]})
    with open_engine() as lab:
        image = lab.engine.images.pull(reference).id
        script = "cat /data/f; echo above > /data/f; cat /data/f; rm /data/noise; ls /data"
        assert lab.run("one", script, image=image) == "belowabove\nf\n"
        trees = [tree for tree in (lab.root / "data" / "snapshots").glob("*/fs") if tree.is_mount()]
        assert len(trees) == 1, "the small layer is a tree of files"
        assert lab.run("two", "cat /data/f; ls -l /data/noise | wc -l", image=image) == "below1\n"
        running = lab.shell("three", "sleep 100", image=image)
        (lab.root / "context" / "Dockerfile").write_text(
            f"FROM {reference} AS a\nRUN cat /data/f > /data/g\nFROM lab/busybox\nCOPY --from=a /data /copied\n"
        )
        built = lab.engine.images.build(BuildConfig(str(lab.root / "context"), "lab/built")).id
        assert (
            lab.run("four", "cat /copied/g /copied/f; stat -c %s /copied/noise", image=built) == "belowbelow6291456\n"
        )
        assert lab.engine.containers.get(running.id).exit is None

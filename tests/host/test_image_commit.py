"""What an overlay's upper directory holds, as a layer: the same tree again, deterministic, bounded."""

from __future__ import annotations

import ctypes
import gzip
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.errors import NotFound, Unsupported
from agent.image.store import ImageStore
from agent.oci.digest import compute_digest
from agent.oci.imageconfig import ImageConfig
from agent.store.database import Database
from tests.host.registry import Registry, entry, make_tar
from tests.host.test_image_oracles import describe_tree, differences

pytestmark = pytest.mark.host
LIBC = ctypes.CDLL(None, use_errno=True)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    (tmp_path / "data").mkdir()
    opened = ImageStore(tmp_path / "data", Database(tmp_path / "data" / "db"))
    yield opened
    opened.close()


@contextmanager
def overlay(base: Path, lower: tuple[Path, ...], upper: Path | None) -> Iterator[Path]:
    target = base / f"merged-{len(list(base.iterdir()))}"
    target.mkdir()
    options = "lowerdir=" + ":".join(map(str, lower))
    if upper is not None:
        (base / "work").mkdir(exist_ok=True)
        upper.mkdir(exist_ok=True)
        options += f",upperdir={upper},workdir={base / 'work'}"
    elif len(lower) == 1:
        yield lower[0]
        return
    assert LIBC.mount(b"overlay", str(target).encode(), b"overlay", 0, options.encode()) == 0, os.strerror(
        ctypes.get_errno()
    )
    try:
        yield target
    finally:
        assert LIBC.umount2(str(target).encode(), 0) == 0


def make_base(path: Path) -> Path:
    for name in ("kept", "gone", "emptied", "replaced", "file-for-directory"):
        (path / name / "sub").mkdir(parents=True)
        (path / name / "sub" / "f").write_text(name)
    (path / "plain").write_text("plain")
    (path / "link").symlink_to("plain")
    return path


def change(merged: Path) -> None:
    """What a RUN step may do to its root file system."""
    shutil.rmtree(merged / "gone")
    shutil.rmtree(merged / "replaced")
    (merged / "replaced").mkdir(mode=0o700)
    (merged / "replaced" / "new").write_text("new")
    shutil.rmtree(merged / "file-for-directory")
    (merged / "file-for-directory").write_text("now a file")
    (merged / "emptied" / "sub" / "f").unlink()
    (merged / "plain").unlink()
    (merged / "plain").mkdir()
    (merged / "link").unlink()
    (merged / "link").symlink_to("/elsewhere")
    (merged / "kept" / "a").write_text("a")
    os.link(merged / "kept" / "a", merged / "kept" / "b")
    os.chown(merged / "kept", 5, 6)
    (merged / "kept").chmod(0o3775)
    (merged / "tool").write_bytes(b"#!")
    (merged / "tool").chmod(0o4755)
    for path in merged.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)


def test_upper_directory_becomes_a_layer(store: ImageStore, tmp_path: Path) -> None:
    below = store.commit_layer(make_base(tmp_path / "base"))
    base = store.add_image(ImageConfig("amd64", "linux"), [below], "base:1")
    with overlay(tmp_path, store.lowerdirs(base.id), tmp_path / "upper") as merged:
        change(merged)
        wanted = describe_tree(merged)
    layer = store.commit_layer(tmp_path / "upper", parents=[below.chain_id])
    image = store.add_image(ImageConfig("amd64", "linux"), [below, layer], "changed:1")
    with overlay(tmp_path, store.lowerdirs(image.id), None) as merged:
        found = describe_tree(merged)
    wanted.pop("."), found.pop(".")
    assert differences(found, wanted) == []
    with tarfile.open(
        fileobj=io.BytesIO(gzip.decompress(store.content.path(layer.descriptor.digest).read_bytes()))
    ) as tar:
        names = set(tar.getnames())
    assert {".wh.gone", "emptied/sub/.wh.f", "replaced/.wh..wh..opq"} <= names


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_same_tree_gives_same_bytes(store: ImageStore, tmp_path: Path, compression: str) -> None:
    first = make_base(tmp_path / "one")
    shutil.copytree(first, tmp_path / "two", symlinks=True, copy_function=shutil.copy2)
    for path in [*first.rglob("*"), *(tmp_path / "two").rglob("*")]:
        os.utime(path, (1, 1), follow_symlinks=False)
    one = store.commit_layer(first, compression=compression)  # type: ignore[arg-type]
    two = store.commit_layer(tmp_path / "two", compression=compression)  # type: ignore[arg-type]
    assert one == two
    assert len(store.snapshots.all()) == 1
    assert compute_digest(store.content.path(one.descriptor.digest).read_bytes()) == one.descriptor.digest


def test_python_reads_the_layer(store: ImageStore, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / ("é" * 120)).write_bytes(b"x" * 1000)
    os.chown(tree / ("é" * 120), 3_000_000_000, 4_000_000)
    os.utime(tree / ("é" * 120), (-5, -5))
    os.setxattr(tree / ("é" * 120), "user.k", b"\n=\0")
    layer = store.commit_layer(tree, compression="none")
    with tarfile.open(store.content.path(layer.descriptor.digest)) as tar:
        (info,) = tar.getmembers()
    assert (info.name, info.uid, info.gid, info.size) == ("é" * 120, 3_000_000_000, 4_000_000, 1000)
    status = (store.snapshots.require(layer.chain_id) / ("é" * 120)).stat()
    assert (status.st_uid, status.st_mtime) == (3_000_000_000, -5)


def test_sockets_are_left_out_and_devices_kept(store: ImageStore, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))
    layer = store.commit_layer(tree)
    assert list(store.snapshots.require(layer.chain_id).iterdir()) == []
    os.mknod(tree / "null", 0o20640, os.makedev(1, 3))
    os.mknod(tree / "disk", 0o60600, os.makedev(254, 70_000))
    kept = store.commit_layer(tree)
    found = {path.name: path.lstat() for path in store.snapshots.require(kept.chain_id).iterdir()}
    assert {name: (status.st_mode, status.st_rdev) for name, status in found.items()} == {
        "null": (0o20640, os.makedev(1, 3)),
        "disk": (0o60600, os.makedev(254, 70_000)),
    }
    (tree / ".wh.fake").write_text("")
    with pytest.raises(Unsupported, match="reserve"):
        store.commit_layer(tree)
    assert len(list(store.snapshots.root.iterdir())) == 2
    assert list((store.content.root / "ingest").iterdir()) == []


def test_unknown_parents_are_refused(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        store.commit_layer(make_base(tmp_path / "base"), parents=[compute_digest(b"nothing")])


MEASURE = """
import sys
from pathlib import Path
from agent.image.store import ImageStore
from agent.store.database import Database

def peak():
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0])

root = Path(sys.argv[1])
root.mkdir()
store = ImageStore(root, Database(root / "holdfast.db"))
store.pull(sys.argv[2])
Path("/proc/self/clear_refs").write_text("5")
before = peak()
store.pull(sys.argv[3])
print(peak() - before)
store.close()
"""


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_memory_is_bounded_whatever_the_size(tmp_path: Path, compression: str) -> None:
    """At most 64 MiB above idle, with three layers of 48 MiB at once."""
    with Registry() as registry:
        small = registry.push_layers("small:1", [make_tar([entry("f", b"small")])], compression=compression)
        layers = [make_tar([entry("f", os.urandom(48 << 20)), entry(f"g{n}", b"g")]) for n in range(3)]
        large = registry.push_layers("large:1", layers, compression=compression)
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "data"), small, large]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 64 << 10

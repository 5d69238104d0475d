"""What Holdfast stores, other tools read; what it unpacks is what umoci unpacks, entry by entry."""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import stat
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.image.store import ImageStore
from agent.oci.imageconfig import ImageConfig
from agent.store.database import Database
from tests.host.registry import Layout, Registry, digest_of, directory, entry, make_tar

pytestmark = pytest.mark.host
LIBC = ctypes.CDLL(None, use_errno=True)
NAMES = ("a", "b", "c", "dir", "with space", "ünïcode", "x" * 120, "deep")


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = ImageStore(tmp_path / "data", Database(_made(tmp_path / "data") / "db"))
    yield opened
    opened.close()


def _made(path: Path) -> Path:
    path.mkdir()
    return path


@contextmanager
def merged(lower: tuple[Path, ...], target: Path) -> Iterator[Path]:
    """The layers as a container would see them."""
    target.mkdir()
    stack = [str(path) for path in lower]
    if len(stack) == 1:
        yield lower[0]
        return
    options = f"lowerdir={':'.join(stack)}".encode()
    assert LIBC.mount(b"overlay", str(target).encode(), b"overlay", 1, options) == 0, os.strerror(ctypes.get_errno())
    try:
        yield target
    finally:
        assert LIBC.umount2(str(target).encode(), 0) == 0


def describe_tree(root: Path) -> dict[str, Any]:
    """Every entry by its path: type, mode, owner, content, link, time, xattrs and the group of its hard links."""
    groups: dict[int, str] = {}
    found = {}
    paths = sorted([root, *root.rglob("*")])
    visible = Counter(path.lstat().st_ino for path in paths)
    for path in paths:
        status = path.lstat()
        name = str(path.relative_to(root))
        mode = status.st_mode
        content = (
            digest_of(path.read_bytes()) if stat.S_ISREG(mode) else path.readlink() if stat.S_ISLNK(mode) else None
        )
        linked = groups.setdefault(status.st_ino, name) if visible[status.st_ino] > 1 else None
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
            if not key.startswith(("trusted.overlay.", "user.rootlesscontainers", "user.umoci"))
        }
        seconds = None if stat.S_ISDIR(mode) else status.st_mtime_ns
        found[name] = (oct(mode), status.st_uid, status.st_gid, content, linked, seconds, xattrs)
    return found


def differences(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What is not the same, short enough to read."""
    return [
        f"{name[-40:]}: {mine.get(name)!s} is not {theirs.get(name)!s}"
        for name in sorted({*mine, *theirs})
        if mine.get(name) != theirs.get(name)
    ]


class TreeMaker:
    """Layers over one another, with everything a layer may hold."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.directories: set[str] = set()
        self.others: set[str] = set()

    def layer(self, entries: int) -> bytes:
        made: list[Any] = []
        fresh_files: list[str] = []
        touched: set[str] = set()
        for _ in range(entries):
            path = self.path()
            if path in touched or any(path == other or other.startswith(path + "/") for other in touched):
                continue
            touched.add(path)
            made += self.one(path, fresh_files)
        return make_tar(made, self.random.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))

    def path(self) -> str:
        parents = ["", *sorted(self.directories)]
        parent = self.random.choice(parents)
        name = self.random.choice(NAMES) + str(self.random.randrange(12))
        return f"{parent}/{name}" if parent else name

    def forget(self, path: str) -> None:
        self.directories = {name for name in self.directories if name != path and not name.startswith(path + "/")}
        self.others = {name for name in self.others if name != path and not name.startswith(path + "/")}

    def one(self, path: str, fresh: list[str]) -> list[Any]:
        r = self.random
        common = {"uid": r.choice([0, 1000, 3_000_000]), "gid": r.choice([0, 50]), "mtime": r.randrange(2_000_000_000)}
        mode = r.choice([0o644, 0o755, 0o4755, 0o2711, 0o1777, 0o600])
        known = path in self.directories or path in self.others
        if known and r.random() < 0.4:
            self.forget(path)
            head, _, tail = path.rpartition("/")
            return [entry(f"{head}/.wh.{tail}" if head else f".wh.{tail}")]
        kind = r.choice(["directory", "directory", "file", "file", "file", "symlink", "link", "fifo", "opaque"])
        if kind in ("directory", "opaque"):
            self.others.discard(path)
            self.directories.add(path)
            made = [directory(path, mode, **common)]
            if kind == "opaque":
                self.forget(path)
                self.directories.add(path)
                made.append(entry(f"{path}/.wh..wh..opq"))
            return made
        self.forget(path)
        self.others.add(path)
        if kind == "link" and fresh:
            return [entry(path, kind=tarfile.LNKTYPE, linkname=r.choice(fresh))]
        if kind == "symlink":
            return [entry(path, kind=tarfile.SYMTYPE, mode=0o777, linkname=r.choice(["/etc", "../..", "a"]), **common)]
        if kind == "fifo":
            return [entry(path, kind=tarfile.FIFOTYPE, mode=mode, **common)]
        fresh.append(path)
        pax = {"SCHILY.xattr.user.note": "x" * r.randrange(1, 50)} if r.random() < 0.3 else {}
        return [entry(path, r.randbytes(r.randrange(3000)), mode=mode, pax_headers=pax, **common)]


@pytest.mark.parametrize("seed", range(8))
def test_tree_equals_umoci(registry: Registry, store: ImageStore, tmp_path: Path, seed: int) -> None:
    maker = TreeMaker(seed)
    layers = [maker.layer(60), maker.layer(40), maker.layer(40)]
    layout = registry.layout()
    descriptor = layout.image(layers)
    reference = registry.push(layout, descriptor, f"tree:{seed}")
    image = store.pull(reference)
    layout.name(descriptor, "tree")
    bundle = tmp_path / "bundle"
    subprocess.run(["umoci", "unpack", "--image", f"{layout.path}:tree", str(bundle)], check=True, capture_output=True)
    with merged(store.lowerdirs(image.id), tmp_path / "merged") as ours:
        mine, theirs = describe_tree(ours), describe_tree(bundle / "rootfs")
    mine.pop("."), theirs.pop(".")
    assert differences(mine, theirs) == []
    assert len(mine) > 20


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_skopeo_reads_the_store(registry: Registry, store: ImageStore, tmp_path: Path, docker: bool) -> None:
    layers = [make_tar([directory("d"), entry("d/f", b"one")]), make_tar([directory("d"), entry("d/g", b"two")])]
    reference = registry.push_layers(f"read:{docker}", layers, docker=docker)
    image = store.pull(reference)
    source = f"oci:{store.content.root}:{reference}"
    command = ["skopeo", "copy", "--insecure-policy", source, f"dir:{tmp_path / 'copy'}"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "copy" / image.id.removeprefix("sha256:")).exists()


def test_umoci_unpacks_what_was_committed(store: ImageStore, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_bytes(b"x" * 5000)
    os.link(tree / "sub" / "file", tree / "hard")
    (tree / "link").symlink_to("/etc/passwd")
    os.mkfifo(tree / "fifo")
    os.setxattr(tree / "sub" / "file", "user.note", b"\x00\xffbinary\n")
    os.setxattr(tree / "hard", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    (tree / ("n" * 200)).write_bytes(b"long")
    deep = tree / ("d" * 90) / ("e" * 90) / ("f" * 90)
    deep.mkdir(parents=True)
    (deep / ("g" * 90)).symlink_to("t" * 150)
    os.chown(tree / "sub", 4_000_000, 12)
    (tree / "sub").chmod(0o2750)
    for path in sorted(tree.rglob("*"), reverse=True):
        os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)
    layer = store.commit_layer(tree)
    store.add_image(ImageConfig("amd64", "linux"), [layer], "committed:1")
    bundle = tmp_path / "bundle"
    layout = tmp_path / "layout"
    shutil.copytree(store.content.root, layout)
    Layout.name(_layout_at(layout), _only_manifest(layout), "committed")
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:committed", str(bundle)], check=True, capture_output=True)
    mine, theirs = describe_tree(store.lowerdirs("committed:1")[0]), describe_tree(bundle / "rootfs")
    original = describe_tree(tree)
    for found in (mine, theirs, original):
        found.pop(".")
    assert differences(mine, original) == []
    assert differences(theirs, original) == []


def _layout_at(path: Path) -> Layout:
    layout = Layout.__new__(Layout)
    layout.path = path
    return layout


def _only_manifest(path: Path) -> dict[str, Any]:
    (only,) = json.loads((path / "index.json").read_text())["manifests"]
    return {key: value for key, value in only.items() if key != "annotations"}

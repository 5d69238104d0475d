"""What Holdfast stores, other tools read; what it unpacks is what umoci unpacks, entry by entry."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from agent.image.store import ImageStore
from agent.oci.imageconfig import ImageConfig
from agent.oci.source import LocalImage
from agent.store.database import Database
from tests.host.registry import Layout, Registry, directory, entry, make_tar
from tests.host.treelab import CAPABILITY, LAYERS, TreeMaker, describe_tree, differences

pytestmark = pytest.mark.host
LIBC = ctypes.CDLL(None, use_errno=True)
MIB = 1 << 20


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


def unpack_with_umoci(layout: Layout, descriptor: dict[str, Any], bundle: Path) -> Path:
    """The root file system as umoci makes it."""
    layout.name(descriptor, "tree")
    subprocess.run(["umoci", "unpack", "--image", f"{layout.path}:tree", str(bundle)], check=True, capture_output=True)
    return bundle / "rootfs"


@contextmanager
def unpacked_twice(layers: list[bytes], compression: str = "none") -> Iterator[tuple[Path, Path]]:
    """An image as a container of ours would see it, and as umoci unpacks it."""
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as name:
        root = Path(name)
        layout = Layout(root / "layout")
        descriptor = layout.image(layers, compression=compression)
        theirs = unpack_with_umoci(layout, descriptor, root / "bundle")
        database = Database(_made(root / "data") / "db")
        store = ImageStore(root / "data", database)
        image = store.archives.bring(LocalImage("oci", str(layout.path), "tree"))
        with merged(store.lowerdirs(image.id), root / "merged") as ours:
            yield ours, theirs
        assert store.verify(tuple, repair=False) == ()
        store.close()
        database.close()


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(LAYERS)
def test_tree_equals_umoci(drawn: list[Any]) -> None:
    maker = TreeMaker()
    layers = [maker.layer(operations, form) for operations, form in drawn]
    with unpacked_twice(layers) as (ours, theirs):
        mine, expected = describe_tree(ours), describe_tree(theirs)
    mine.pop("."), expected.pop(".")
    assert differences(mine, expected) == []


def pack_with_tar(root: Path, form: str) -> bytes:
    """A tree as GNU tar packs it, with device nodes; in posix format also with sparse files, as umoci knows them, and
    extended attributes."""
    options = ("--sparse", "--xattrs", "--xattrs-include=*") if form == "posix" else ()
    command = ["tar", "-C", root, f"--format={form}", "--numeric-owner", *options, "-c", "."]
    return subprocess.run(command, check=True, capture_output=True).stdout


def machine_tree(root: Path, packages: tuple[str, ...]) -> None:
    """Files of Debian packages of this machine with links, owners and modes, and what else a whole system has."""
    run = subprocess.run(["dpkg", "-L", *packages], check=True, capture_output=True, text=True)
    listed = (Path(name) for name in run.stdout.splitlines() if name.startswith("/") and name != "/.")
    names = sorted(str(path.parent.resolve() / path.name) for path in listed if path.is_symlink() or path.exists())
    listing = "\0".join(dict.fromkeys(names)).encode()
    pipe = f"tar -C / --no-recursion --null -T - -c | tar -C {root} -x --same-owner --numeric-owner"
    subprocess.run(["sh", "-c", pipe], input=listing, check=True, stderr=subprocess.DEVNULL)
    (root / "dev").mkdir(exist_ok=True)
    for name, kind, major, minor in (("null", stat.S_IFCHR, 1, 3), ("vda", stat.S_IFBLK, 254, 0)):
        os.mknod(root / "dev" / name, kind | 0o660, os.makedev(major, minor))
    (root / "var" / "log").mkdir(parents=True, exist_ok=True)
    with (root / "var" / "log" / "lastlog").open("wb") as sparse:
        for offset in (0, MIB, MIB + 8192, 5 * MIB):
            sparse.seek(offset)
            sparse.write(b"data" * 1000)
        sparse.truncate(8 * MIB)
    ping = root / "usr" / "bin" / "ping"
    ping.parent.mkdir(parents=True, exist_ok=True)
    ping.write_bytes(b"\x7fELF")
    os.setxattr(ping, "security.capability", CAPABILITY)
    os.link(ping, root / "usr" / "bin" / "ping6")


def test_system_tree_equals_umoci(tmp_path: Path) -> None:
    """A part of a Debian system; the whole of one is compared by tests/vm/test_debootstrap_image.py."""
    root = _made(tmp_path / "root")
    machine_tree(root, ("base-files", "base-passwd", "dash", "debianutils", "sed", "login", "init-system-helpers"))
    with unpacked_twice([pack_with_tar(root, "posix")], "gzip") as (ours, theirs):
        mine, expected, packed = describe_tree(ours), describe_tree(theirs), describe_tree(root)
        room = (ours / "var/log/lastlog").stat().st_blocks * 512
    assert differences(mine, expected) == []
    assert differences(mine, packed) == []
    assert room < MIB, "sparse files stay sparse"
    assert len(mine) > 200


def test_acls_are_kept_where_the_file_system_has_any() -> None:
    """Where it has none they are left out, as umoci does."""
    entries = ((1, 6, 2**32 - 1), (2, 6, 1000), (4, 4, 2**32 - 1), (16, 6, 2**32 - 1), (32, 4, 2**32 - 1))
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *parts) for parts in entries)
    pax = {"SCHILY.xattr.system.posix_acl_access": packed.decode("utf-8", "surrogateescape")}
    with unpacked_twice([make_tar([entry("f", b"x", pax_headers=pax)])]) as (ours, theirs):
        assert differences(describe_tree(ours / "f"), describe_tree(theirs / "f")) == []
        assert (ours / "f").read_bytes() == b"x"


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

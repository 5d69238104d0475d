"""Hostile layers (attack rows 44 to 47): each is refused, touches nothing outside, and leaves nothing behind."""

from __future__ import annotations

import gzip
import json
import os
import stat
import struct
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zstandard

from agent.errors import Refused
from agent.image.config import RegistryConfig
from agent.image.errors import InsufficientStorage, StorageFailed
from agent.image.layers.unpack import Unpacker
from agent.image.limits import UnpackLimits
from agent.image.store import ImageStore
from agent.store.database import Database
from tests.host.registry import TYPES, Registry, digest_of, directory, entry, make_tar

pytestmark = pytest.mark.host
GNU = tarfile.GNU_FORMAT


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ImageStore]:
    """Short layers are unpacked in this process; with the parameter ``apart``, each in one of its own."""
    apart_from = 0 if getattr(request, "param", "") == "apart" else 1 << 40
    (tmp_path / "data").mkdir()
    limits = UnpackLimits(layer_bytes=64 << 20, ratio=50, ratio_floor=8 << 20, image_floor=64 << 20, entries=5000)
    config = RegistryConfig(limits=limits, backoff=0.01, attempts=2, apart_from=apart_from)
    opened = ImageStore(tmp_path / "data", Database(tmp_path / "data" / "db"), config)
    yield opened
    opened.close()


@pytest.fixture
def decoy(tmp_path: Path) -> Path:
    """A directory of the host that layers try to reach; what it looks like is what it must go on looking like."""
    path = tmp_path / "decoy"
    path.mkdir(mode=0o700)
    (path / "secret").write_text("untouched")
    (path / "secret").chmod(0o600)
    return path


def look(path: Path) -> list[Any]:
    found = []
    for item in sorted([path, *path.rglob("*")]):
        status = item.lstat()
        names = os.listxattr(item, follow_symlinks=False)
        content = item.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found.append((item, status.st_mode, status.st_uid, status.st_nlink, status.st_mtime_ns, names, content))
    return found


def link(name: str, target: str) -> Any:
    return entry(name, kind=tarfile.SYMTYPE, mode=0o777, linkname=target)


def hard(name: str, target: str) -> Any:
    return entry(name, kind=tarfile.LNKTYPE, linkname=target)


def device(name: str, kind: bytes, major: int, minor: int) -> Any:
    return entry(name, kind=kind, devmajor=major, devminor=minor)


def long_links(decoy: str) -> list[Any]:
    """CVE-2025-4517: a chain of links whose expansion is longer than PATH_MAX hides where it ends."""
    component = "d" * 247
    made: list[Any] = []
    path = ""
    for step in "abcdefghijklmnop":
        made += [directory(f"{path}{component}"), link(f"{path}{step}", component)]
        path += f"{component}/"
    short = "/".join("abcdefghijklmnop")
    made.append(link(f"{short}/{'l' * 254}", "../" * 16))
    made.append(link("escape", f"{short}/{'l' * 254}/..{decoy}"))
    made.append(entry("escape/planted", b"x"))
    return made


HOSTILE: dict[str, Any] = {
    "dot-dot": lambda d: [entry("../planted", b"x")],
    "dot-dot-inside": lambda d: [directory("a"), entry("a/../../planted", b"x")],
    "absolute": lambda d: [entry(f"{d}/planted", b"x")],
    "absolute-directory": lambda d: [directory(str(d), 0o777)],
    "absolute-below-root": lambda d: [directory("/"), directory("/planted")],
    "slash-dot-dot": lambda d: [directory("/..")],
    "slash-is-a-link": lambda d: [link("/", str(d))],
    "slash-is-a-file": lambda d: [entry("//", b"x")],
    "hard-link-of-slash": lambda d: [hard("stolen", "/")],
    "root-is-a-link": lambda d: [link(".", str(d)), entry("planted", b"x")],
    "root-is-a-file": lambda d: [entry("./", b"x")],
    "through-link": lambda d: [link("a", str(d)), entry("a/planted", b"x")],
    "through-relative-link": lambda d: [link("a", "../../../../.."), entry("a/planted", b"x")],
    "through-two-links": lambda d: [directory("x"), link("x/a", str(d)), link("b", "x/a"), entry("b/planted", b"x")],
    "through-inner-link": lambda d: [directory("x"), link("a", "x"), entry("a/planted", b"x")],
    "directory-through-link": lambda d: [link("a", str(d)), directory("a/planted")],
    "link-through-link": lambda d: [link("a", str(d)), link("a/planted", "x")],
    "hard-link-absolute": lambda d: [hard("stolen", f"{d}/secret")],
    "hard-link-dot-dot": lambda d: [hard("stolen", "../../../../../etc/passwd")],
    "hard-link-through-link": lambda d: [link("a", str(d)), hard("stolen", "a/secret")],
    "hard-link-to-nothing": lambda d: [hard("stolen", "not/there")],
    "hard-link-to-directory": lambda d: [directory("a"), hard("b", "a")],
    "hard-link-into-own-place": lambda d: [directory("a"), entry("a/f", b"x"), hard("a", "a/f")],
    "whiteout-through-link": lambda d: [link("a", str(d)), entry("a/.wh.secret")],
    "opaque-through-link": lambda d: [link("a", str(d)), entry("a/.wh..wh..opq")],
    "whiteout-of-dot-dot": lambda d: [directory("a"), entry("a/.wh...")],
    "whiteout-of-dot": lambda d: [directory("a"), entry("a/.wh..")],
    "whiteout-of-nothing": lambda d: [entry(".wh.")],
    "below-a-whiteout": lambda d: [entry(".wh.a/b", b"x")],
    "device-through-link": lambda d: [link("a", str(d)), device("a/null", tarfile.CHRTYPE, 1, 3)],
    "device-beyond-numbers": lambda d: [device("disk", tarfile.BLKTYPE, 4096, 0)],
    "ready-made-whiteout": lambda d: [device("gone", tarfile.CHRTYPE, 0, 0)],
    "file-as-parent": lambda d: [entry("a", b"x"), entry("a/b", b"x")],
    "long-name": lambda d: [entry("n" * 256, b"x")],
    "long-path": lambda d: [entry("/".join(["p" * 200] * 22), b"x")],
    "deep": lambda d: [directory("/".join(["d"] * 200))],
    "unknown-type": lambda d: [entry("what", kind=b"V")],
    "huge-size": lambda d: [entry("huge", b"x", pax_headers={"size": "99999999999999999999"})],
    "larger-than-allowed": lambda d: [entry("zero", bytes(65 << 20))],
    "many-entries": lambda d: [entry(f"f{number}") for number in range(5001)],
    "huge-pax-header": lambda d: [entry("f", b"x", pax_headers={"comment": "x" * (2 << 20)})],
    "negative-uid": lambda d: [entry("f", b"x", pax_headers={"uid": "-1"})],
    "xattr-nobody-has": lambda d: [entry("f", b"x", pax_headers={"SCHILY.xattr.nonsense": "x"})],
    "links-longer-than-paths": lambda d: long_links(str(d)),
    "a-capability-that-is-none": lambda d: [entry("f", b"x", pax_headers={"SCHILY.xattr.security.capability": "x"})],
}


def assert_nothing_left(store: ImageStore) -> None:
    assert list(store.snapshots.root.iterdir()) == []
    assert store.content.all() == frozenset()
    assert list((store.content.root / "ingest").iterdir()) == []
    assert store.all() == ()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_layer_is_refused(registry: Registry, store: ImageStore, decoy: Path, name: str) -> None:
    before = look(decoy)
    form = GNU if name in ("absolute", "long-path", "links-longer-than-paths") else tarfile.PAX_FORMAT
    harmless = make_tar([directory("ok"), entry("ok/f", b"fine")])
    reference = registry.push_layers(f"hostile:{name}", [harmless, make_tar(HOSTILE[name](decoy), form)])
    with pytest.raises(Refused) as caught:
        store.pull(reference)
    assert caught.value.retry_after is None
    assert look(decoy) == before
    assert_nothing_left(store)


@pytest.mark.parametrize("name", ["dot-dot", "hard-link-through-link", "ready-made-whiteout"])
def test_refusal_leaves_what_others_share(registry: Registry, store: ImageStore, decoy: Path, name: str) -> None:
    harmless = make_tar([directory("ok"), entry("ok/f", b"fine")])
    good = store.pull(registry.push_layers("good:1", [harmless]))
    with pytest.raises(Refused):
        store.pull(registry.push_layers(f"hostile:{name}", [harmless, make_tar(HOSTILE[name](decoy))]))
    assert (store.lowerdirs(good.id)[0] / "ok" / "f").read_bytes() == b"fine"
    assert len(store.snapshots.all()) == 1


def push_blob(registry: Registry, name: str, blob: bytes, diff_id: str, kind: str) -> str:
    """An image whose only layer is ``blob``, whatever it unpacks to."""
    layout = registry.layout()
    descriptor = layout.image([b""], compression="none")
    config = layout.describe(
        b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["%s"]}}' % diff_id.encode(),
        TYPES["config"],
    )
    layer = layout.describe(blob, TYPES[kind])
    manifest = {"schemaVersion": 2, "mediaType": descriptor["mediaType"], "config": config, "layers": [layer]}
    return registry.push(layout, layout.describe(json.dumps(manifest).encode(), descriptor["mediaType"]), name)


def bomb(size: int, kind: str) -> bytes:
    """A tar with one file of zeros, packed as tightly as can be: frame after frame of the same 64 MiB."""
    info = tarfile.TarInfo("bomb")
    info.size = size
    pack: Any = gzip.compress if kind == "gzip" else zstandard.compress
    return bytes(pack(info.tobuf()) + pack(bytes(64 << 20)) * (size >> 26) + pack(bytes(10240)))


@pytest.mark.parametrize(("kind", "store"), [("gzip", ""), ("zstd", ""), ("gzip", "apart")], indirect=["store"])
def test_bomb_is_bounded(registry: Registry, store: ImageStore, kind: str) -> None:
    reference = push_blob(registry, f"bomb:{kind}", bomb(10 << 30, kind), "sha256:" + "0" * 64, kind)
    with pytest.raises(Refused, match=r"unpacks to more than"):
        store.pull(reference)
    assert_nothing_left(store)
    good = store.pull(registry.push_layers("after:1", [make_tar([entry("f", b"fine")])]))
    assert (store.lowerdirs(good.id)[0] / "f").exists(), "a refused layer leaves no lock behind"


@pytest.mark.parametrize("store", ["", "apart"], indirect=True)
def test_a_layer_listed_often_is_a_bomb(registry: Registry, store: ImageStore) -> None:
    zeros = make_tar([entry("f", bytes(7 << 20))])
    with pytest.raises(Refused, match="the image unpacks to more than 64 MiB"):
        store.pull(registry.push_layers("often:1", [zeros] * 10))
    assert_nothing_left(store)


def test_inodes_are_kept_free(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=8300", "tmpfs", tmp_path], check=True)
    try:
        (tmp_path / "root").mkdir()
        unpacker = Unpacker(tmp_path / "root", UnpackLimits())
        with closing(unpacker), pytest.raises(InsufficientStorage, match="hardly any inodes"):
            unpacker.unpack(iter([make_tar([entry(f"f{number}") for number in range(8200)])]))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


SMALL = make_tar([entry("f", os.urandom(200_000))])
PACKED = gzip.compress(SMALL, 1)
OVERSIZED_WINDOW = zstandard.ZstdCompressor(
    compression_params=zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
).compress(SMALL + bytes(1 << 27))
BROKEN = {
    "cut gzip": (PACKED[:-5000], "gzip"),
    "gzip checksum": (PACKED[:-8] + struct.pack("<II", 1, len(SMALL)), "gzip"),
    "behind gzip": (PACKED + b"more", "gzip"),
    "cut zstd": (zstandard.compress(SMALL)[:-3000], "zstd"),
    "zstd window": (OVERSIZED_WINDOW, "zstd"),
    "cut tar": (SMALL[:100_000], "none"),
    "no tar": (b"not a tar archive at all" * 100, "none"),
    "empty gzip": (gzip.compress(b""), "gzip"),
    "other content": (gzip.compress(make_tar([entry("g", b"other")])), "gzip"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_stream_is_refused(registry: Registry, store: ImageStore, name: str) -> None:
    blob, kind = BROKEN[name]
    reference = push_blob(registry, "broken:1", blob, digest_of(SMALL), kind)
    with pytest.raises(Refused):
        store.pull(reference)
    assert_nothing_left(store)


def test_links_are_never_followed_for_attributes(registry: Registry, store: ImageStore, decoy: Path) -> None:
    """Row 45: owner, times and xattrs of a link entry are the link's own."""
    before = look(decoy)
    entries = [
        entry("a", kind=tarfile.SYMTYPE, linkname=f"{decoy}/secret", mode=0o777, uid=1234, gid=99, mtime=5),
        entry("b", kind=tarfile.SYMTYPE, linkname=str(decoy), mode=0o4777, uid=1234, mtime=5),
        hard("c", "a"),
    ]
    image = store.pull(registry.push_layers("links:1", [make_tar(entries)]))
    status = (store.lowerdirs(image.id)[0] / "c").lstat()
    assert (status.st_uid, status.st_gid, status.st_mtime, stat.S_ISLNK(status.st_mode)) == (1234, 99, 5.0, True)
    assert look(decoy) == before


def test_swapping_peer_reaches_nothing(registry: Registry, store: ImageStore, decoy: Path) -> None:
    """Row 45: somebody who swaps a directory for a link during the unpack gains nothing: a failed pull at most."""
    before = look(decoy)
    entries = [directory("d", 0o755)]
    entries += [item for n in range(1500) for item in (entry(f"d/f{n}", b"x"), entry(f"d/s{n}/g", b"y"))]
    reference = registry.push_layers("race:1", [make_tar(entries)])
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for found in store.snapshots.root.glob("tmp-*/fs/d"):
                try:
                    found.rename(found.with_name("moved"))
                    found.symlink_to(decoy)
                except OSError:
                    continue

    peer = threading.Thread(target=swap)
    peer.start()
    try:
        store.pull(reference)
    except (Refused, StorageFailed, OSError):
        pass
    finally:
        stop.set()
        peer.join()
    assert look(decoy) == before


def test_overlay_marks_of_a_layer_mean_nothing(registry: Registry, store: ImageStore) -> None:
    """A layer must not steer overlayfs: redirects would show any directory of the lower layers as another."""
    marks = {f"SCHILY.xattr.{name}": "y" for name in ("trusted.overlay.opaque", "trusted.overlay.redirect")}
    reference = registry.push_layers("marks:1", [make_tar([directory("d", pax_headers=marks)])])
    image = store.pull(reference)
    assert os.listxattr(store.lowerdirs(image.id)[0] / "d") == []

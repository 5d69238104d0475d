"""What a layer may make its unpacking keep or do: bounded, whichever way it is kept, and the same in both."""

from __future__ import annotations

import os
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.image.erofs import file as imagefile
from agent.image.erofs import metadata as imagemetadata
from agent.image.erofs.layerimage import ImageWriter
from agent.image.errors import HostileLayer, NeedsMoreRoom, UnfitForImage
from agent.image.layers.implied import LowerLayers
from agent.image.layers.layerwriter import LayerWriter
from agent.image.layers.unpack import Unpacker
from agent.image.limits import UnpackLimits
from tests.host.registry import directory, entry, make_tar

pytestmark = pytest.mark.host
XATTR = "SCHILY.xattr."
OTHER_CAPABILITIES = (
    bytes(20),
    bytes.fromhex("ff00000200040000000000000000000000000000"),
    bytes.fromhex("0100000300040000000000000000000000000000e8030000"),
)


@pytest.fixture(params=["files", "image"])
def writer(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    (tmp_path / "files").mkdir()
    kinds: dict[str, Any] = {"files": Unpacker, "image": ImageWriter}
    with closing(kinds[request.param](tmp_path / request.param, UnpackLimits())) as made:
        yield made


def write(writer: LayerWriter, *entries: Any) -> None:
    writer.unpack(iter([make_tar(entries)]))


@pytest.mark.parametrize(
    "name",
    ["user.", "trusted.", "user." + "n" * 250, "btrfs.compression", "security.ima.x", "system.posix_acl_access"],
)
def test_attributes_that_a_file_system_has_to_judge(tmp_path: Path, name: str) -> None:
    unjudged = ("user." + "n" * 250, "security.ima.x")  # as long as can be; of no use elsewhere and left out
    with closing(ImageWriter(tmp_path / "image", UnpackLimits())) as writer:
        if name in unjudged:
            write(writer, entry("f", b"x", pax_headers={XATTR + name: "v"}))
        else:
            with pytest.raises(UnfitForImage):
                write(writer, entry("f", b"x", pax_headers={XATTR + name: "v"}))


@pytest.mark.parametrize("value", OTHER_CAPABILITIES)
def test_only_capabilities_that_are_stored_as_they_come(tmp_path: Path, value: bytes) -> None:
    said = {XATTR + "security.capability": value.decode("utf-8", "surrogateescape")}
    with closing(ImageWriter(tmp_path / "image", UnpackLimits())) as writer, pytest.raises(UnfitForImage):
        write(writer, entry("f", b"x", pax_headers=said))


def test_attributes_larger_than_an_inode_has_room_for(tmp_path: Path) -> None:
    for number, said in enumerate([{"user.one": "v" * 70_000}, {f"user.{n}": "v" * 60_000 for n in range(5)}]):
        with closing(ImageWriter(tmp_path / str(number), UnpackLimits())) as writer, pytest.raises(UnfitForImage):
            write(writer, entry("f", b"x", pax_headers={XATTR + name: value for name, value in said.items()}))


def extended(said: dict[str, str]) -> bytes:
    """A pax header of its own."""
    records = b"".join(f"{len(name) + len(value) + 6:03} {name}={value}\n".encode() for name, value in said.items())
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % tarfile.BLOCKSIZE)


def test_many_attributes_end_early(tmp_path: Path) -> None:
    """Each one of thousands costs memory, however short it is; and no file can have more than it can list."""
    for most, error in ((5_000, NeedsMoreRoom), (32_000, HostileLayer)):
        said = {f"{XATTR}user.{number:x}": "" for number in range(most)}
        limits = UnpackLimits(kept=1 << 20)
        with closing(ImageWriter(tmp_path / str(most), limits)) as writer, pytest.raises(error):
            writer.unpack(iter([extended(said) + make_tar([entry("f", b"x")])]))


def test_long_names_count(tmp_path: Path) -> None:
    names = [entry(f"{number:0250}") for number in range(201)]
    for kept in (100_000, 50_000):
        with closing(ImageWriter(tmp_path / str(kept), UnpackLimits(kept=kept))) as writer:
            if kept == 100_000:
                write(writer, *names)
            else:
                with pytest.raises(NeedsMoreRoom):
                    write(writer, *names)


def test_extended_headers_are_bounded_together(writer: LayerWriter) -> None:
    one = extended({f"comment{number:05}": "x" * 900 for number in range(600)})
    with pytest.raises(HostileLayer, match="extended headers"):
        writer.unpack(iter([one, one, make_tar([entry("f", b"x")])]))


def test_small_files_do_not_keep_the_chunks_that_they_came_in(tmp_path: Path) -> None:
    file = imagefile.ImageFile(tmp_path / "image")
    with closing(file):
        chunk = bytearray(100_000)
        file.add([memoryview(chunk)[:10]])
        chunk.extend(b"x")  # a BufferError if anything still had a view of it


def test_data_behind_all_that_an_image_can_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagefile, "_LAST_BLOCK", 17)
    for number, content in enumerate([b"x" * 4096, b"x" * 4097]):
        with closing(ImageWriter(tmp_path / str(number), UnpackLimits())) as writer:
            if number == 0:
                write(writer, entry("f", content))
            else:
                with pytest.raises(UnfitForImage):
                    write(writer, entry("f", content))


def test_what_was_implied_goes_with_the_tree_that_it_was_in(writer: LayerWriter) -> None:
    write(writer, entry("t/a/b/f"), entry("t/a/c/f"), entry("t-not/f"), entry("k/t/f"), entry("t", b"file"))
    assert set(writer.implied) == {b"", b"t-not", b"k", b"k/t"}
    writer.settle([])


def test_deeper_than_directories_may_be(writer: LayerWriter) -> None:
    with pytest.raises(HostileLayer, match="deeper"):
        write(writer, directory("/".join(["d"] * 129)))


def test_deep_trees_are_not_opened_again_for_each_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    opened: list[object] = []
    really = os.open
    base = "/".join(["d"] * 126)
    with closing(Unpacker(tmp_path / "files", UnpackLimits())) as writer:

        def count(path: Any, *args: Any, **named: Any) -> int:
            opened.append(path)
            return really(path, *args, **named)

        monkeypatch.setattr(os, "open", count)
        write(writer, *(entry(f"{base}/{number}/f") for number in range(50)))
        writer.settle([])
        assert len(opened) < 10 * (126 + 50)


def test_long_implied_paths_are_bounded(writer: LayerWriter) -> None:
    base = "/".join(["p" * 250] * 15)
    with pytest.raises((HostileLayer, UnfitForImage)):
        write(writer, *(entry(f"{base}/{number}/f") for number in range(2700)))


def make_tree(root: Path, **files: str) -> Path:
    """``d=directory``, ``f=file`` or ``l=link`` below it, in this order; two underscores are a slash."""
    root.mkdir()
    for name, kind in files.items():
        path = root / name.replace("__", "/")
        if kind == "link":
            path.symlink_to("x")
        elif kind == "file":
            path.touch()
        else:
            path.mkdir()
            path.chmod(int(kind, 8))
    return root


def test_attributes_come_from_what_overlayfs_would_show(tmp_path: Path) -> None:
    top = make_tree(tmp_path / "top", a="700", b="700", o="700", gone="file")
    os.setxattr(top / "o", "trusted.overlay.opaque", b"y")
    (top / "gone").unlink()
    os.mknod(top / "gone", 0o020000, 0)
    middle = make_tree(tmp_path / "middle", a="file", b="711", b__c="712", o="711", o__x="711", gone="711", l="link")
    bottom = make_tree(tmp_path / "bottom", a="750", a__x="751", b="750", b__c="752", b__c__d="753", gone="751")
    layers = LowerLayers([top, middle, bottom])
    found = {path: oct(layers.find_attributes(path).mode) for path in (b"b/c/d", b"b/c", b"b", b"a/x", b"a", b"")}
    assert found | {b"": ""} == {
        b"b/c/d": "0o753", b"b/c": "0o712", b"b": "0o700", b"a/x": "0o755", b"a": "0o700", b"": "",
    }  # fmt: skip
    for path in (b"o/x", b"gone", b"none/x"):
        assert layers.find_attributes(path).mode == 0o755
    with pytest.raises(HostileLayer, match="no directory"):
        layers.find_attributes(b"l/x")


def test_more_said_below_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No full disk, for which a pull would wait for ever; and what is the file system's own is left to it."""
    monkeypatch.setattr(imagemetadata, "RESERVED", 256)
    lower = make_tree(tmp_path / "lower", d="755")
    said = LowerLayers([lower]).find_attributes(b"d")._replace(xattrs={"btrfs.compression": b"zstd"})
    monkeypatch.setattr(LowerLayers, "find_attributes", lambda *_: said)
    with closing(ImageWriter(tmp_path / "image", UnpackLimits())) as writer:
        write(writer, entry("d/f"), entry("d/.wh..wh..opq"))
        writer.settle([lower])
        said.xattrs["user.large"] = b"v" * 256
        with pytest.raises(HostileLayer, match="too much is said"):
            writer.settle([lower])

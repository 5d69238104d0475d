"""The tar reader against Python's own writer, and against anything at all (attack row 46)."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.image.errors import HostileLayer
from agent.image.layers.decompress import decompress
from agent.image.layers.layerwriter import split_path
from agent.image.layers.tarheader import TarEntry, parse_number
from agent.image.layers.tarreader import TarReader
from agent.image.limits import UnpackLimits

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
NAME = st.text("ab/é. -", min_size=1, max_size=150).map(lambda text: text.strip("/ .") or "a")


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def read(data: bytes, chunk: int = 1000) -> list[tuple[TarEntry, bytes]]:
    reader = TarReader(pieces(data, chunk))
    found = []
    for entry in reader:
        lengths = [length for _, length in entry.sparse] if entry.sparse is not None else [entry.size]
        found.append((entry, b"".join(bytes(part) for length in lengths for part in reader.data(length))))
    return found


MEMBERS = st.lists(
    st.tuples(
        NAME,
        st.binary(max_size=1500),
        st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]),
        st.integers(0, 0o7777),
        st.integers(0, 2_097_151),
        st.integers(0, 8_589_934_591),
    ),
    max_size=6,
)


@settings(max_examples=150)
@given(MEMBERS, st.sampled_from(FORMATS), st.integers(1, 3000))
def test_reads_what_python_writes(
    members: list[tuple[str, bytes, bytes, int, int, int]], form: int, chunk: int
) -> None:
    target = io.BytesIO()
    written = []
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for name, content, kind, mode, owner, time in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid, info.mtime = kind, mode, owner, owner // 2, time
            info.linkname = name[::-1] if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            try:
                archive.addfile(info, io.BytesIO(content))
            except ValueError:
                continue
            written.append((info, content if kind == tarfile.REGTYPE else b""))
    found = read(target.getvalue(), chunk)
    assert len(found) == len(written)
    for (entry, data), (info, content) in zip(found, written, strict=True):
        assert entry.name.rstrip(b"/").decode() == info.name
        assert entry.link.decode() == info.linkname
        assert (entry.kind, entry.mode, entry.uid, entry.gid) == (info.type, info.mode, info.uid, info.gid)
        assert entry.mtime == int(info.mtime) * 10**9
        assert data == content


def sample(form: int) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for number in range(6):
            info = tarfile.TarInfo(f"d/{'n' * (number * (15 if form == tarfile.USTAR_FORMAT else 40))}{number}")
            info.pax_headers = {"SCHILY.xattr.user.a": "value"} if form == tarfile.PAX_FORMAT else {}
            info.size = number * 300
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return target.getvalue()


SAMPLES = [sample(form) for form in FORMATS]


@settings(max_examples=400)
@given(st.randoms(use_true_random=False), st.sampled_from(SAMPLES))
def test_damaged_archives_are_read_or_refused(chance: random.Random, data: bytes) -> None:
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(changed))
        changed[place : place + chance.choice([0, 1, 1, 12])] = chance.randbytes(chance.choice([0, 1, 1, 12]))
    if chance.random() < 0.5:
        start = chance.randrange(0, len(changed) - 512, 512)
        block = changed[start : start + 512]
        changed[start + 148 : start + 156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    try:
        read(bytes(changed))
    except HostileLayer:
        return


@given(st.binary(max_size=2000))
def test_junk_is_refused(data: bytes) -> None:
    if not data.strip(b"\0"):
        return
    with pytest.raises(HostileLayer):
        read(data.ljust(-len(data) % 512 + len(data), b"\1"))


@given(st.binary(min_size=1, max_size=12))
def test_numbers_are_bounded_or_refused(field: bytes) -> None:
    try:
        value = parse_number(field, 1 << 40)
    except HostileLayer:
        return
    assert 0 <= value <= 1 << 40


@given(st.binary(min_size=1, max_size=50) | st.text("./a", min_size=1, max_size=20).map(str.encode), st.booleans())
def test_paths_are_safe_or_refused(name: bytes, directory: bool) -> None:
    try:
        parts = split_path(name, directory=directory)
    except HostileLayer:
        return
    assert not name.startswith(b"/") or (directory and not parts)
    assert all(part not in (b"", b".", b"..") and b"/" not in part for part in parts)


@settings(max_examples=150)
@given(st.binary(max_size=300), st.sampled_from([b"", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x51\x2a\x4d\x18"]))
def test_junk_streams_end_or_are_refused(data: bytes, magic: bytes) -> None:
    try:
        out = b"".join(decompress(pieces(magic + data, 7), UnpackLimits()))
    except HostileLayer:
        return
    assert magic or out == data or data[:2] == b"\x1f\x8b" or data[:1] == b"\x28"


@pytest.mark.parametrize("name", ["testtar.tar"])
def test_pythons_own_corpus(name: str) -> None:
    """CPython's archive of every format and oddity: read like tarfile does, or refused."""
    path = Path(tarfile.__file__).parent / "test" / name
    if not path.exists():
        pytest.skip("this Python was installed without its tests")
    data = path.read_bytes()
    with tarfile.open(path, encoding="iso8859-1", errors="surrogateescape") as archive:
        known = {info.name.encode("iso8859-1", "surrogateescape"): info.size for info in archive if info.isreg()}
    try:
        found = read(data)
    except HostileLayer:
        return
    for entry, _ in found:
        if entry.kind == b"0" and entry.name in known:
            assert entry.real_size == known[entry.name]


def write_sparse(path: Path, holes: int) -> bytes:
    with path.open("wb") as file:
        for number in range(holes):
            file.seek(number * 1_000_000)
            file.write(b"%d" % number * 1000)
        file.truncate(holes * 1_000_000)
    return path.read_bytes()


@pytest.mark.parametrize("holes", [1, 3, 30])
@pytest.mark.parametrize("form", ["gnu", "posix-0.0", "posix-0.1", "posix-1.0"])
def test_sparse_files_of_gnu_tar(tmp_path: Path, form: str, holes: int) -> None:
    content = write_sparse(tmp_path / "f", holes)
    kind, _, version = form.partition("-")
    options = [f"--format={kind}", "--sparse", *([f"--sparse-version={version}"] if version else [])]
    command = ["tar", "-C", str(tmp_path), *options, "-cf", "-", "f"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    ((entry, packed),) = read(data)
    assert entry.name == b"f"
    assert entry.real_size == len(content)
    assert len(packed) < len(content)
    rebuilt = bytearray(len(content))
    for offset, length in entry.sparse or ():
        rebuilt[offset : offset + length], packed = packed[:length], packed[length:]
    assert bytes(rebuilt) == content

"""Copy-up against an oracle: whatever tree an image has, ``cp -a`` and we make the same of it."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.volume.treecopy import copy_tree
from tests.examples import examples

pytestmark = pytest.mark.host  # owners, trusted attributes
NAMES = st.sampled_from([b"a", b"b", b"c", b"d e", b"\xff\xfe", b"-rf", "ü".encode(), b"x" * 255, b"\n"])
MODES = st.sampled_from([0o644, 0o600, 0o000, 0o4755, 0o2775, 0o1777, 0o6711, 0o777])
OWNERS = st.tuples(st.sampled_from([0, 1, 65534, 100_000]), st.sampled_from([0, 5, 65534]))
TIMES = st.integers(0, 2**32 * 10**9)
ATTRIBUTES = st.dictionaries(st.sampled_from(["user.a", "user.b", "trusted.x"]), st.binary(max_size=30), max_size=2)
META = st.tuples(MODES, OWNERS, TIMES, ATTRIBUTES)
PLACES = st.lists(NAMES, min_size=1, max_size=4)
CONTENT = st.one_of(st.binary(max_size=64), st.just(b"z" * 70_000))
ENTRIES = st.one_of(
    st.tuples(st.just("dir"), PLACES, META, st.none()),
    st.tuples(st.just("file"), PLACES, META, CONTENT),
    st.tuples(st.just("sparse"), PLACES, META, st.integers(1, 1 << 40)),
    st.tuples(
        st.just("link"), PLACES, META, st.sampled_from([b"a", b"/etc/shadow", b"../../..", b"\xff", b"x" * 4000])
    ),
    st.tuples(st.just("hard"), PLACES, META, PLACES),
    st.tuples(st.just("fifo"), PLACES, META, st.none()),
    st.tuples(st.just("acl"), PLACES, META, st.none()),
)


def encode_acl() -> bytes:
    """An access control list u::rwx u:7:rw- g::r-x m::rwx o::--- in the kernel's form."""
    entries = ((1, 7, 2**32 - 1), (2, 6, 7), (4, 5, 2**32 - 1), (16, 7, 2**32 - 1), (32, 0, 2**32 - 1))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def build(root: Path, entries: list[Any]) -> None:
    made: list[tuple[Path, Any]] = []
    for kind, parts, meta, extra in entries:
        path = root.joinpath(*map(os.fsdecode, parts))
        if any(parent.is_symlink() for parent in reversed(path.parents) if root in parent.parents):
            continue  # never out of the root
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            make(root, kind, path, extra)
        except OSError:
            continue  # the name is taken, or something else than a directory is in the way
        made.append((path, meta))
    for path, meta in reversed(made):
        give(path, *meta)
    for path, (_, _, at, _) in sorted(made, key=lambda item: -len(item[0].parts)):
        os.utime(path, ns=(at, at), follow_symlinks=False)


def make(root: Path, kind: str, path: Path, extra: Any) -> None:
    if kind == "dir":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(os.fsdecode(extra))
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "hard":
        os.link(root.joinpath(*map(os.fsdecode, extra)), path, follow_symlinks=False)
    elif kind == "acl":
        path.mkdir()
        os.setxattr(path, "system.posix_acl_default", encode_acl())
        os.setxattr(path, "system.posix_acl_access", encode_acl())
    else:
        with path.open("xb") as stream:
            stream.seek(extra if kind == "sparse" else 0)
            stream.write(b"end" if kind == "sparse" else extra)


def give(path: Path, mode: int, owner: tuple[int, int], _at: int, attributes: dict[str, bytes]) -> None:
    os.chown(path, *owner, follow_symlinks=False)
    if not path.is_symlink():
        path.chmod(mode)
    plain = stat.S_IFMT(path.lstat().st_mode) in (stat.S_IFREG, stat.S_IFDIR)
    for name, value in attributes.items():
        if plain or name.startswith("trusted."):
            os.setxattr(path, name, value, follow_symlinks=False)


def describe(root: Path) -> dict[str, Any]:
    inodes: dict[int, int] = {}
    paths = sorted(root.rglob("*"))
    return {str(path.relative_to(root)): describe_one(path, inodes) for path in [root, *paths]}


def describe_one(path: Path, inodes: dict[int, int]) -> Any:
    status = path.lstat()
    names = sorted(name for name in os.listxattr(path, follow_symlinks=False) if name != "security.selinux")
    attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    content: Any = None
    if stat.S_ISLNK(status.st_mode):
        content = path.readlink()
    elif stat.S_ISREG(status.st_mode):
        content = (status.st_size, read_ends(path, status.st_size))
        assert status.st_blocks * 512 <= 1 << 20, "holes were written out"
    shared = 0 if stat.S_ISDIR(status.st_mode) else inodes.setdefault(status.st_ino, len(inodes))
    return (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, attributes, content, shared)


def read_ends(path: Path, size: int) -> bytes:
    with path.open("rb") as stream:
        start = stream.read(80_000)
        stream.seek(max(size - 100, 0))
        return start + stream.read()


@given(st.lists(ENTRIES, max_size=14), META)
@settings(max_examples=examples(150), deadline=None)
def test_same_as_cp_archive(entries: list[Any], meta: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="holdfast-copy-") as base:
        source, ours, theirs = (Path(base, name) for name in ("source", "ours", "theirs"))
        for path in (source, ours, theirs):
            path.mkdir()
        build(source, entries)
        give(source, *meta)
        os.utime(source, ns=(meta[2], meta[2]))
        subprocess.run(["cp", "-a", f"{source}/.", theirs], check=True)
        descriptors = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, ours)]
        copied = copy_tree(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        assert copied is any(source.iterdir())
        assert describe(ours) == describe(source)
        assert describe(ours) == describe(theirs)

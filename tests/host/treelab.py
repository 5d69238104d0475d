"""Layered trees as hypothesis draws them, and what any file tree is, entry by entry, for comparing with other tools."""

from __future__ import annotations

import os
import stat
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.host.registry import digest_of, directory, entry, make_tar

NAMES = ("a", "b", "c d", "ünïcode", "x" * 120)
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
_PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
_OWNERS = st.sampled_from([0, 50, 1000, 65534, 3_000_000])
_MODES = st.sampled_from([0o644, 0o755, 0o4755, 0o2711, 0o1777, 0o600, 0o000])
_TIMES = st.sampled_from([0, 1, 1_600_000_000, 1_600_000_000.25, 4_294_967_296, -5])
_XATTRS = st.sampled_from([{}, {}, {"user.note": b"x" * 40}, {"user.bin": bytes(range(1, 256))}])
_KINDS = st.sampled_from(
    ["directory", "directory", "file", "file", "capable", "symlink", "link", "fifo", "char", "block", "gone", "opaque"]
)
_FORMS = st.sampled_from([tarfile.PAX_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
_SIZES = st.sampled_from([0, 1, 511, 512, 513, 70_000])
_TARGETS = st.sampled_from(["/etc", "../..", "a", "x" * 150, "ünïcode/b"])

OPERATION = st.tuples(_KINDS, _PATHS, _OWNERS, _OWNERS, _MODES, _TIMES, _XATTRS, _SIZES, _TARGETS, st.randoms())
LAYERS = st.lists(st.tuples(st.lists(OPERATION, min_size=8, max_size=40), _FORMS), min_size=1, max_size=4)


class TreeMaker:
    """Turns drawn operations into layers that make sense upon one another: what cannot be is passed over."""

    def __init__(self) -> None:
        self._directories: set[str] = {""}
        self._others: set[str] = set()
        self._touched: set[str] = set()
        self._files: list[str] = []

    def layer(self, operations: list[Any], form: int) -> bytes:
        """One layer's tar."""
        self._touched.clear()
        self._files.clear()
        made: list[Any] = []
        for operation in operations:
            made += self._make(*operation[:2], operation[2:], plain=form == tarfile.GNU_FORMAT)
        return make_tar(made, form)

    def _make(self, kind: str, path: str, details: Any, *, plain: bool) -> list[Any]:
        head = path.rpartition("/")[0]
        if head not in self._directories or self._is_touched(path):
            return []
        known = path in self._directories or path in self._others
        if kind == "gone":
            return self._remove(path, head) if known else []
        self._touched.add(path)
        if kind in ("directory", "opaque"):
            return self._make_directory(path, details, opaque=kind == "opaque", plain=plain)
        self._forget(path)
        self._others.add(path)
        return [self._make_other(kind, path, details, plain=plain)]

    def _is_touched(self, path: str) -> bool:
        return any(other == path or other.startswith(path + "/") for other in self._touched)

    def _forget(self, path: str) -> None:
        for names in (self._directories, self._others):
            names -= {name for name in names if name == path or name.startswith(path + "/")}

    def _remove(self, path: str, head: str) -> list[Any]:
        self._touched.add(path)
        self._forget(path)
        name = ".wh." + path.rpartition("/")[2]
        return [entry(f"{head}/{name}" if head else name)] if len(name.encode()) < 256 else []

    def _make_directory(self, path: str, details: Any, *, opaque: bool, plain: bool) -> list[Any]:
        uid, gid, mode, mtime, xattrs = details[:5]
        if opaque:
            self._forget(path)
        self._others.discard(path)
        self._directories.add(path)
        pax = {} if plain else _pax(xattrs)
        made = [directory(path, mode, uid=uid, gid=gid, mtime=_time(mtime, plain=plain), pax_headers=pax)]
        return [*made, entry(f"{path}/.wh..wh..opq")] if opaque else made

    def _make_other(self, kind: str, path: str, details: Any, *, plain: bool) -> Any:
        uid, gid, mode, mtime, xattrs, size, target, random = details
        common = {"uid": uid, "gid": gid, "mtime": _time(mtime, plain=plain)}
        if kind == "link" and self._files:
            return entry(path, kind=tarfile.LNKTYPE, linkname=random.choice(self._files))
        if kind == "symlink":
            return entry(path, kind=tarfile.SYMTYPE, mode=0o777, linkname=target, **common)
        if kind in ("fifo", "char", "block"):
            types = {"fifo": tarfile.FIFOTYPE, "char": tarfile.CHRTYPE, "block": tarfile.BLKTYPE}
            return entry(path, kind=types[kind], mode=mode, devmajor=size % 4000 + 1, devminor=size, **common)
        self._files.append(path)
        if kind == "capable":
            xattrs = {**xattrs, "security.capability": CAPABILITY}
        return entry(path, random.randbytes(size), mode=mode, pax_headers={} if plain else _pax(xattrs), **common)


def _time(mtime: float, *, plain: bool) -> float:
    """GNU's format holds whole seconds only."""
    return int(mtime) if plain else mtime


def _pax(xattrs: dict[str, bytes]) -> dict[str, str]:
    return {f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape") for name, value in xattrs.items()}


def describe_tree(root: Path) -> dict[str, Any]:
    """Every entry by its path: type, mode, owner, content, link, device, time, xattrs and the group of its hard
    links."""
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
        device = status.st_rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else None
        found[name] = (oct(mode), status.st_uid, status.st_gid, content, linked, device, seconds, xattrs)
    return found


def differences(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What is not the same, short enough to read."""
    return [
        f"{name[-40:]}: {mine.get(name)!s} is not {theirs.get(name)!s}"
        for name in sorted({*mine, *theirs})
        if mine.get(name) != theirs.get(name)
    ]

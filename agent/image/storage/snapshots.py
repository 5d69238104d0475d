"""Snapshots: unpacked layers by chain ID, as small numbered directories that all images share.

A snapshot is a tree of files; or a layer image, which is mounted where the tree would be when it is first needed. It
is built in ``tmp-*`` and appears under its number by one rename, complete. Its marker says which chain it is, so that
records can be rebuilt from the directories. Data is flushed to disk after the pull, in the background (``flush``):
until then the marker is bound to this boot, and after a power cut the snapshot is dropped and unpacked again from its
blob.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from agent.errors import NotFound
from agent.image.erofs.layermounts import LayerMounts
from agent.image.errors import translated_storage_errors
from agent.image.layers.undescribed import name_undescribed
from agent.kernel.placement import spread_children
from agent.kernel.removal import discard_tree, remove_tree
from agent.oci.digest import Digest, parse_digest
from agent.store.atomic import write_atomic
from agent.values import frozen

EMPTY_CHAIN = "empty"
KIND = "snapshot"
TREE = "fs"
IMAGE = "layer.erofs"
_MARKER = "chain.json"
_LIBC = ctypes.CDLL(None, use_errno=True)


class Records(Protocol):
    """What the image store needs of the database."""

    def put(self, kind: str, key: str, value: dict[str, Any]) -> None:
        """Store a document."""

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Every document of a kind."""

    def delete(self, kind: str, *keys: str) -> None:
        """Remove documents."""


@frozen
class Snapshot:
    """One unpacked layer: its number, the chain it ends, and the bytes of its files."""

    number: int
    chain: str
    size: int


class SnapshotStore:
    """All snapshots below ``root``. Thread-safe; one process at a time."""

    def __init__(self, root: Path, records: Records) -> None:
        self.root = root
        self._records = records
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._by_chain: dict[str, Snapshot] = {}
        self._volatile: set[int] = set()
        self._images: set[int] = set()
        self._highest = 0
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        spread_children(root)
        self.mounts = LayerMounts(root)
        self._load()

    def _load(self) -> None:
        """Believe the directories; remove what is half made, was not flushed before the machine went down, or is an
        image that cannot be mounted here: each is unpacked again from its blob when it is wanted."""
        for path in sorted(self.root.iterdir()):
            snapshot = self._read_marker(path)
            if snapshot is None or snapshot.chain in self._by_chain:
                self.mounts.detach(path / TREE)
                remove_tree(path)
            else:
                self._by_chain[snapshot.chain] = snapshot
        known = self._records.all(KIND)
        self._records.delete(KIND, *(chain for chain in known if chain not in self._by_chain))
        for snapshot in self._by_chain.values():
            if snapshot.chain not in known:
                self._record(snapshot)
        self._highest = max((snapshot.number for snapshot in self._by_chain.values()), default=0)

    def _read_marker(self, path: Path) -> Snapshot | None:
        try:
            marker = json.loads((path / _MARKER).read_bytes())
            if marker["boot"] not in ("", self._boot) or not path.name.isdigit():
                return None
            has_image = (path / IMAGE).exists()
            if marker.get("image", has_image) is not has_image or (has_image and self.mounts.impossible):
                return None
            if has_image:
                self._images.add(int(path.name))
            if marker["boot"]:
                self._volatile.add(int(path.name))
            return Snapshot(int(path.name), str(marker["chain"]), int(marker["size"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _record(self, snapshot: Snapshot) -> None:
        self._records.put(KIND, snapshot.chain, {"number": snapshot.number, "size": snapshot.size})

    def path(self, number: int) -> Path:
        """The directory that overlayfs takes as a lower layer. Raises StorageFailed for an image that is damaged."""
        if number in self._images:
            self.mounts.attach(self.directory(number) / IMAGE, self.tree(number))
        return self.tree(number)

    def tree(self, number: int) -> Path:
        """The same, but only where it is: nothing need be mounted there."""
        return self.directory(number) / TREE

    def directory(self, number: int) -> Path:
        """Where all of a snapshot is. Its time says when it was last named."""
        return self.root / str(number)

    def find(self, chain: str) -> Snapshot | None:
        """The snapshot of a chain ID, if it is there."""
        return self._by_chain.get(chain)

    def require(self, chain: str) -> Path:
        """The lower directory of a chain ID. Raises NotFound."""
        snapshot = self._by_chain.get(chain)
        if snapshot is None:
            raise NotFound(f"the layer {chain} is not unpacked", reason="SnapshotNotFound", hint="pull the image again")
        return self.path(snapshot.number)

    def prepare(self) -> Path:
        """A fresh temporary snapshot; its TREE is to be filled or its IMAGE written, then ``commit`` or ``discard``."""
        path = self.root / f"tmp-{secrets.token_hex(8)}"
        with translated_storage_errors():
            path.mkdir(mode=0o700)
            self.empty(path)
        return path

    def empty(self, path: Path) -> None:
        """Begin a prepared snapshot afresh."""
        (path / IMAGE).unlink(missing_ok=True)
        name_undescribed(path / TREE).unlink(missing_ok=True)
        discard_tree(path / TREE)
        (path / TREE).mkdir(mode=0o755)
        (path / TREE).chmod(0o755)

    def commit(self, path: Path, chain: str, size: int) -> Snapshot:
        """Make a prepared snapshot visible as ``chain``; when there is one already, that one stays."""
        with self._lock:
            if (present := self._by_chain.get(chain)) is not None:
                self.discard(path)
                os.utime(self.directory(present.number))  # young again: about to be named
                return present
            number = self._highest + 1  # never one of before: its directory may still be mounted
            snapshot = Snapshot(number, chain, size)
            self._write_marker(path, snapshot, self._boot)
            with translated_storage_errors():
                path.rename(self.directory(number))
            if (self.directory(number) / IMAGE).exists():
                self._images.add(number)
            self._by_chain[chain] = snapshot
            self._highest = number
            self._volatile.add(number)
            self._record(snapshot)
            return snapshot

    def _write_marker(self, path: Path, snapshot: Snapshot, boot: str) -> None:
        has_image = (path / IMAGE).exists()
        marker = {"chain": snapshot.chain, "size": snapshot.size, "boot": boot, "image": has_image}
        with translated_storage_errors():
            write_atomic(path / _MARKER, json.dumps(marker).encode(), durable=False)

    def discard(self, path: Path) -> None:
        """Remove a prepared snapshot that is not wanted."""
        discard_tree(path)

    def remove(self, chains: Collection[str]) -> int:
        """Remove snapshots by chain ID; returns the bytes of their files. Absent ones are fine."""
        moved, freed = self.detach(chains)
        for path in moved:
            self.discard(path)
        return freed

    def detach(self, chains: Collection[str]) -> tuple[tuple[Path, ...], int]:
        """Make snapshots vanish at once, and leave their files, where they were moved to, to be ``discard``ed.

        Returns these directories and the bytes of their files; what a crash leaves of them goes at the next start.
        """
        moved = []
        freed = 0
        with self._lock:
            gone = [self._by_chain[chain] for chain in chains if chain in self._by_chain]
            self._records.delete(KIND, *(snapshot.chain for snapshot in gone))
            for snapshot in gone:
                target = self.root / f"tmp-{secrets.token_hex(8)}"
                self.mounts.detach(self.tree(snapshot.number))
                self.directory(snapshot.number).rename(target)
                del self._by_chain[snapshot.chain]
                moved.append(target)
                self._volatile.discard(snapshot.number)
                self._images.discard(snapshot.number)
                freed += snapshot.size
        return tuple(moved), freed

    def all(self) -> tuple[Snapshot, ...]:
        """Every snapshot that is there."""
        return tuple(self._by_chain.values())

    def close(self) -> None:
        """Unmount every layer image. Containers keep what they have; whoever needs one again mounts it again."""
        with self._lock:
            for snapshot in self._by_chain.values():
                self.mounts.detach(self.tree(snapshot.number))

    def flush(self) -> None:
        """Put all data on the disk (one syncfs), then unbind the markers from this boot. Slow: seconds."""
        with self._flushing:
            with self._lock:
                fresh = [snapshot for snapshot in self._by_chain.values() if snapshot.number in self._volatile]
            if not fresh:
                return
            _sync_file_system(self.root)
            with self._lock:
                for snapshot in fresh:
                    if self._by_chain.get(snapshot.chain) is snapshot:
                        self._write_marker(self.directory(snapshot.number), snapshot, "")
                        self._volatile.discard(snapshot.number)


def _sync_file_system(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _LIBC.syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(fd)


def compute_chain_names(chain_ids: Sequence[Digest]) -> tuple[str, ...]:
    """The snapshots that make up a root file system, bottom first: never none, since overlayfs needs a lower layer."""
    return tuple(parse_digest(chain) for chain in chain_ids) or (EMPTY_CHAIN,)

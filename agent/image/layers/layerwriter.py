"""A layer's tar stream, entry by entry: what all ways to keep an unpacked layer have in common.

Refused (HostileLayer): absolute names (but a directory named `/` is the root) and `..`, parents that are links, hard
links out of the layer, sizes and counts beyond the limits. Whiteouts become overlayfs' own marks (image-spec layer.md,
"Whiteouts"). Device nodes are made as they are: only root can reach them, and no container's mount honours them.
"""

from __future__ import annotations

import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from agent.image.errors import HostileLayer
from agent.image.layers.rooted import render_path
from agent.image.layers.tarheader import TarEntry
from agent.image.layers.tarreader import TarReader
from agent.image.limits import UnpackLimits
from agent.image.space import SPACE_CHECK, check_space

WHITEOUT = b".wh."
META_WHITEOUT = b".wh..wh."
OPAQUE_WHITEOUT = b".wh..wh..opq"
MAX_PATH = 4096
UNWANTED_XATTRS = ("trusted.overlay.", "user.overlay.", "security.selinux", "system.nfs4_acl", "security.ima")


def split_path(name: bytes, *, directory: bool = False) -> list[bytes]:
    """The components of a member's name; none for the root itself, which a ``directory`` may also call ``/``.

    Raises HostileLayer for an unsafe name.
    """
    if len(name) > MAX_PATH or not name:
        raise HostileLayer("the layer holds a name that is empty or too long")
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if name.startswith(b"/") and (parts or not directory):
        raise HostileLayer(f"the layer holds the absolute name {render_path(name)}")
    for part in parts:
        if part == b".." or len(part) > 255:
            raise HostileLayer(f"the layer holds the unsafe name {render_path(name)}")
    return parts


class LayerWriter(ABC):
    """Takes one layer in. What fails leaves something half made, which is to be removed."""

    def __init__(self, place: Path, limits: UnpackLimits) -> None:
        """``place``: on the file system that is written to."""
        self._place = place
        self.limits = limits
        self._unchecked = SPACE_CHECK
        self.size = 0
        self.entries = 0

    @property
    @abstractmethod
    def implied(self) -> Set[bytes]:
        """Directories that no entry described: they take their attributes from the layers below."""

    @abstractmethod
    def settle(self, lower: Sequence[Path]) -> None:
        """When all is written: give the implied directories what ``lower``, the topmost first, says of them.

        Raises HostileLayer when the layers below have no directories there, and OSError.
        """

    @abstractmethod
    def close(self) -> None:
        """Release descriptors; what was written stays."""

    def unpack(self, chunks: Iterator[bytes]) -> None:
        """Write everything. Raises HostileLayer, InsufficientStorage or OSError."""
        reader = TarReader(chunks)
        for entry in reader:
            self.entries += 1
            if self.entries > self.limits.entries:
                raise HostileLayer(f"the layer has more than {self.limits.entries} entries")
            parts = split_path(entry.name, directory=entry.kind == b"5")
            if parts and parts[-1].startswith(WHITEOUT):
                self._apply_whiteout(parts)
            elif not any(part.startswith(WHITEOUT) for part in parts):
                self._write(entry, parts, reader)
            elif not any(part.startswith(META_WHITEOUT) for part in parts):
                raise HostileLayer(f"the layer puts files below the whiteout {render_path(entry.name)}")
            self._end_entry()
        self._finish()

    def _write(self, entry: TarEntry, parts: list[bytes], reader: TarReader) -> None:
        if entry.kind == b"5":
            self._write_directory(entry, parts)
            return
        if not parts:
            raise HostileLayer("the layer replaces the root directory by something else")
        if entry.kind == b"0":
            self._account(entry)
            self._write_file(entry, parts, reader)
        elif entry.kind == b"2":
            if not 0 < len(entry.link) < MAX_PATH:
                raise HostileLayer(f"the layer holds the impossible symbolic link {render_path(entry.name)}")
            self._write_symlink(entry, parts)
        elif entry.kind == b"1":
            self._check_link(entry, parts)
        elif entry.kind == b"6":
            self._write_node(entry, parts, stat.S_IFIFO)
        else:
            self._check_device(entry, parts)

    def _account(self, entry: TarEntry) -> None:
        self.size += entry.size
        if self.size > self.limits.layer_bytes or entry.real_size > self.limits.layer_bytes:
            raise HostileLayer(f"the layer unpacks to more than {self.limits.layer_bytes >> 20} MiB")
        self._unchecked += entry.size
        if self._unchecked >= SPACE_CHECK:
            self._unchecked = 0
            check_space(self._place, entry.size, self.limits)

    def _check_link(self, entry: TarEntry, parts: list[bytes]) -> None:
        source = split_path(entry.link)
        if not source or any(part.startswith(WHITEOUT) for part in source):
            raise HostileLayer(f"the layer holds the unsafe hard link {render_path(entry.name)}")
        if source != parts:
            self._write_link(entry, source, parts)

    def _check_device(self, entry: TarEntry, parts: list[bytes]) -> None:
        kind = stat.S_IFCHR if entry.kind == b"3" else stat.S_IFBLK
        if kind == stat.S_IFCHR and entry.device == (0, 0):
            raise HostileLayer(f"the layer holds an overlayfs whiteout as a device node: {render_path(entry.name)}")
        self._write_node(entry, parts, kind)

    def _apply_whiteout(self, parts: list[bytes]) -> None:
        if parts[-1] == OPAQUE_WHITEOUT:
            self._mark_opaque(parts[:-1])
            return
        if parts[-1].startswith(META_WHITEOUT):
            return
        name = parts[-1][len(WHITEOUT) :]
        if name in (b"", b".", b".."):
            raise HostileLayer(f"the layer holds the unsafe whiteout {render_path(parts[-1])}")
        self._mark_gone([*parts[:-1], name])

    @abstractmethod
    def _write_directory(self, entry: TarEntry, parts: list[bytes]) -> None:
        """Make or take over a directory; no ``parts``: the root."""

    @abstractmethod
    def _write_file(self, entry: TarEntry, parts: list[bytes], reader: TarReader) -> None:
        """Write a regular file, in place of what is there."""

    @abstractmethod
    def _write_symlink(self, entry: TarEntry, parts: list[bytes]) -> None:
        """Make a symbolic link, in place of what is there."""

    @abstractmethod
    def _write_link(self, entry: TarEntry, source: list[bytes], parts: list[bytes]) -> None:
        """Make another name of ``source``, in place of what is there."""

    @abstractmethod
    def _write_node(self, entry: TarEntry, parts: list[bytes], kind: int) -> None:
        """Make a device node or FIFO, in place of what is there."""

    @abstractmethod
    def _mark_opaque(self, parts: list[bytes]) -> None:
        """Hide what the layers below have in a directory."""

    @abstractmethod
    def _mark_gone(self, parts: list[bytes]) -> None:
        """Hide what the layers below have there; of a directory of this layer, what they have in it."""

    @abstractmethod
    def _end_entry(self) -> None:
        """Called after each entry."""

    @abstractmethod
    def _finish(self) -> None:
        """Called after the last entry."""

"""A layer's tar stream to a directory that overlayfs can take as a lower layer."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence, Set
from pathlib import Path

from agent.image.errors import HostileLayer, NeedsMoreRoom
from agent.image.layers.implied import adopt_attributes
from agent.image.layers.layerwriter import UNWANTED_XATTRS, LayerWriter
from agent.image.layers.rooted import OPAQUE, RootedTree, is_whiteout, render_path
from agent.image.layers.tarheader import TarEntry
from agent.image.layers.tarreader import TarReader
from agent.image.limits import MAX_KEPT, UnpackLimits
from agent.image.space import check_inodes

INODE_CHECK = 4096
ACLS = "system.posix_acl_"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Unpacker(LayerWriter):
    """Writes one layer beneath ``root``, which must exist and be empty."""

    def __init__(self, root: Path, limits: UnpackLimits) -> None:
        super().__init__(root, limits)
        self._root = root
        self._tree = RootedTree(root)

    @property
    def implied(self) -> Set[bytes]:
        return self._tree.implied

    def settle(self, lower: Sequence[Path]) -> None:
        adopt_attributes(self._root, sorted(self.implied, reverse=True), lower)

    def close(self) -> None:
        self._tree.close()

    def _end_entry(self) -> None:
        if not self.entries % INODE_CHECK:
            check_inodes(self._place)
        if self._tree.kept > self.limits.kept:
            self._refuse()
        self._tree.trim()

    def _refuse(self) -> None:
        if self.limits.kept < MAX_KEPT:
            raise NeedsMoreRoom("the layer leaves many directories undescribed")
        raise HostileLayer("the layer leaves too many directories undescribed, or some with very long paths")

    def _finish(self) -> None:
        self._tree.flush_times()

    def _write_directory(self, entry: TarEntry, parts: list[bytes]) -> None:
        fd = self._tree.make_directory(parts, entry.mtime)
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        self._set_xattrs(entry, fd)

    def _write_file(self, entry: TarEntry, parts: list[bytes], reader: TarReader) -> None:
        parent = self._tree.directory(parts[:-1])
        try:
            fd = os.open(parts[-1], _NEW, entry.mode & 0o777, dir_fd=parent)
        except FileExistsError:
            self._tree.remove(parent, parts)
            fd = os.open(parts[-1], _NEW, entry.mode & 0o777, dir_fd=parent)
        try:
            if entry.sparse is not None:
                self._write_sparse(entry, fd, reader)
            elif entry.size:
                for piece in reader.data(entry.size):
                    _write_all(fd, piece)
            _set_owner_and_mode(fd, entry)
            if entry.xattrs:
                self._set_xattrs(entry, fd)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _write_sparse(self, entry: TarEntry, fd: int, reader: TarReader) -> None:
        for offset, length in entry.sparse or ():
            os.lseek(fd, offset, os.SEEK_SET)
            for piece in reader.data(length):
                _write_all(fd, piece)
        os.ftruncate(fd, entry.real_size)

    def _write_symlink(self, entry: TarEntry, parts: list[bytes]) -> None:
        parent = self._tree.directory(parts[:-1])
        try:
            os.symlink(entry.link, parts[-1], dir_fd=parent)
        except FileExistsError:
            self._tree.remove(parent, parts)
            os.symlink(entry.link, parts[-1], dir_fd=parent)
        self._finish_special(entry, parent, parts[-1])

    def _write_node(self, entry: TarEntry, parts: list[bytes], kind: int) -> None:
        device = os.makedev(*entry.device)
        parent = self._tree.directory(parts[:-1])
        try:
            os.mknod(parts[-1], kind | 0o600, device, dir_fd=parent)
        except FileExistsError:
            self._tree.remove(parent, parts)
            os.mknod(parts[-1], kind | 0o600, device, dir_fd=parent)
        self._finish_special(entry, parent, parts[-1])

    def _finish_special(self, entry: TarEntry, parent: int, name: bytes) -> None:
        """Owner, mode, xattrs and times of what cannot be opened; links are never followed (row 45)."""
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        path = f"/proc/self/fd/{parent}/".encode() + name
        if entry.kind != b"2":
            os.chmod(name, entry.mode, dir_fd=parent)
        self._set_xattrs(entry, path)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _write_link(self, entry: TarEntry, source: list[bytes], parts: list[bytes]) -> None:
        parent = self._tree.directory(parts[:-1])
        try:
            origin = self._tree.existing(source[:-1])
            status = os.stat(source[-1], dir_fd=origin, follow_symlinks=False)
        except FileNotFoundError:
            raise HostileLayer(f"the layer links to {render_path(entry.link)}, which it does not hold") from None
        if stat.S_ISDIR(status.st_mode) or is_whiteout(status):
            raise HostileLayer(f"the layer links to {render_path(entry.link)}, which is no file")
        try:
            self._link(entry, origin, source, parent, parts)
        except FileExistsError:
            if source[: len(parts)] == parts:
                what = render_path(b"/".join(parts))
                raise HostileLayer(f"the layer replaces a directory by a link into it: {what}") from None
            self._tree.remove(parent, parts)
            self._link(entry, self._tree.existing(source[:-1]), source, parent, parts)

    def _link(self, entry: TarEntry, origin: int, source: list[bytes], parent: int, parts: list[bytes]) -> None:
        try:
            os.link(source[-1], parts[-1], src_dir_fd=origin, dst_dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            raise HostileLayer(f"the layer has more links to {render_path(entry.link)} than can be") from error

    def _set_xattrs(self, entry: TarEntry, target: int | bytes) -> None:
        for name, value in entry.xattrs.items():
            if name.startswith(UNWANTED_XATTRS):
                continue
            try:
                os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP and name.startswith(ACLS):
                    continue  # this file system has none, as umoci and docker put up with
                what = f"the extended attribute {name[:60]!r} of {render_path(entry.name)}"
                raise HostileLayer(f"{what} cannot be set: {error.strerror}") from error

    def _mark_opaque(self, parts: list[bytes]) -> None:
        os.setxattr(self._tree.directory(parts), OPAQUE, b"y")

    def _mark_gone(self, parts: list[bytes]) -> None:
        parent = self._tree.directory(parts[:-1])
        try:
            os.mknod(parts[-1], stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            status = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self._mark_opaque(parts)


def _set_owner_and_mode(fd: int, entry: TarEntry) -> None:
    """Change only what creation has not given it already: a look is cheaper than a change that changes nothing."""
    status = os.fstat(fd)
    if status.st_uid != entry.uid or status.st_gid != entry.gid:
        os.fchown(fd, entry.uid, entry.gid)
        status = os.fstat(fd)
    if stat.S_IMODE(status.st_mode) != entry.mode:
        os.fchmod(fd, entry.mode)


def _write_all(fd: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(fd, piece) :]

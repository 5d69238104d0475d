"""A layer's tar stream to a directory that overlayfs can take as a lower layer.

Refused (HostileLayer): absolute names (but a directory named `/` is the root) and `..`, parents that are links, hard
links out of the layer, sizes and counts beyond the limits. Whiteouts become overlayfs' own marks (image-spec layer.md,
"Whiteouts"). Device nodes are made as they are: only root can reach them here, and no container's mount honours them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from agent.image.errors import HostileLayer, InsufficientStorage
from agent.image.limits import UnpackLimits
from agent.image.rooted import OPAQUE, RootedTree, is_whiteout, render_path
from agent.image.tarheader import TarEntry
from agent.image.tarreader import TarReader

WHITEOUT = b".wh."
META_WHITEOUT = b".wh..wh."
OPAQUE_WHITEOUT = b".wh..wh..opq"
MAX_PATH = 4096
SPACE_CHECK = 64 << 20
INODE_CHECK = 4096
UNWANTED_XATTRS = ("trusted.overlay.", "user.overlay.", "security.selinux", "system.nfs4_acl", "security.ima")
ACLS = "system.posix_acl_"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


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


def compute_reserve(root: Path | str, limits: UnpackLimits) -> tuple[int, int]:
    """The bytes free on the file system of ``root``, and those that must stay free."""
    status = os.statvfs(root)
    return status.f_bavail * status.f_frsize, min(limits.reserve, status.f_blocks * status.f_frsize // 50)


def check_space(root: Path | str, size: int, limits: UnpackLimits) -> None:
    """Raises InsufficientStorage when ``size`` more bytes would fill the file system of ``root``."""
    free, reserve = compute_reserve(root, limits)
    if size > free - reserve:
        raise InsufficientStorage(f"{size >> 20} MiB more are needed, {max(free - reserve, 0) >> 20} MiB can be used")


def check_inodes(root: Path | str) -> None:
    """Raises InsufficientStorage when hardly any inodes are free; some file systems make them as they are needed."""
    status = os.statvfs(root)
    if status.f_files and status.f_favail < status.f_files // 50:
        raise InsufficientStorage("the file system has hardly any inodes left")


class Unpacker:
    """Writes one layer beneath ``root``, which must exist and be empty."""

    def __init__(self, root: Path, limits: UnpackLimits) -> None:
        self._root = root
        self._limits = limits
        self._tree = RootedTree(root)
        self._unchecked = SPACE_CHECK
        self.size = 0
        self.entries = 0

    @property
    def implied(self) -> frozenset[bytes]:
        """Directories that no entry described: they take their attributes from the layers below."""
        return frozenset(self._tree.implied)

    def close(self) -> None:
        """Release descriptors; what was written stays."""
        self._tree.close()

    def unpack(self, chunks: Iterator[bytes]) -> None:
        """Write everything. Raises HostileLayer, InsufficientStorage or OSError; then the tree is to be removed."""
        reader = TarReader(chunks)
        for entry in reader:
            self.entries += 1
            if self.entries > self._limits.entries:
                raise HostileLayer(f"the layer has more than {self._limits.entries} entries")
            if not self.entries % INODE_CHECK:
                check_inodes(self._root)
            parts = split_path(entry.name, directory=entry.kind == b"5")
            if parts and parts[-1].startswith(WHITEOUT):
                self._apply_whiteout(parts)
            elif not any(part.startswith(WHITEOUT) for part in parts):
                self._write(entry, parts, reader)
            elif not any(part.startswith(META_WHITEOUT) for part in parts):
                raise HostileLayer(f"the layer puts files below the whiteout {render_path(entry.name)}")
            self._tree.trim()
        self._tree.flush_times()

    def _write(self, entry: TarEntry, parts: list[bytes], reader: TarReader) -> None:
        if entry.kind == b"5":
            self._write_directory(entry, parts)
            return
        if not parts:
            raise HostileLayer("the layer replaces the root directory by something else")
        if entry.kind == b"0":
            self._write_file(entry, parts, reader)
        elif entry.kind == b"2":
            self._write_symlink(entry, parts)
        elif entry.kind == b"1":
            try:
                self._write_link(entry, parts)
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
                raise HostileLayer(f"the layer has more links to {render_path(entry.link)} than can be") from error
        elif entry.kind == b"6":
            self._write_node(entry, parts, stat.S_IFIFO)
        else:
            self._write_node(entry, parts, stat.S_IFCHR if entry.kind == b"3" else stat.S_IFBLK)

    def _write_directory(self, entry: TarEntry, parts: list[bytes]) -> None:
        fd = self._tree.make_directory(parts, entry.mtime)
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        self._set_xattrs(entry, fd)

    def _write_file(self, entry: TarEntry, parts: list[bytes], reader: TarReader) -> None:
        self._account(entry)
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

    def _account(self, entry: TarEntry) -> None:
        self.size += entry.size
        if self.size > self._limits.layer_bytes or entry.real_size > self._limits.layer_bytes:
            raise HostileLayer(f"the layer unpacks to more than {self._limits.layer_bytes >> 20} MiB")
        self._unchecked += entry.size
        if self._unchecked >= SPACE_CHECK:
            self._unchecked = 0
            check_space(self._root, entry.size, self._limits)

    def _write_symlink(self, entry: TarEntry, parts: list[bytes]) -> None:
        if not 0 < len(entry.link) < MAX_PATH:
            raise HostileLayer(f"the layer holds the impossible symbolic link {render_path(entry.name)}")
        parent = self._tree.directory(parts[:-1])
        try:
            os.symlink(entry.link, parts[-1], dir_fd=parent)
        except FileExistsError:
            self._tree.remove(parent, parts)
            os.symlink(entry.link, parts[-1], dir_fd=parent)
        self._finish_special(entry, parent, parts[-1])

    def _write_node(self, entry: TarEntry, parts: list[bytes], kind: int) -> None:
        device = os.makedev(*entry.device)
        if kind == stat.S_IFCHR and device == 0:
            raise HostileLayer(f"the layer holds an overlayfs whiteout as a device node: {render_path(entry.name)}")
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

    def _write_link(self, entry: TarEntry, parts: list[bytes]) -> None:
        source = split_path(entry.link)
        if not source or any(part.startswith(WHITEOUT) for part in source):
            raise HostileLayer(f"the layer holds the unsafe hard link {render_path(entry.name)}")
        if source == parts:
            return
        parent = self._tree.directory(parts[:-1])
        try:
            origin = self._tree.existing(source[:-1])
            status = os.stat(source[-1], dir_fd=origin, follow_symlinks=False)
        except FileNotFoundError:
            raise HostileLayer(f"the layer links to {render_path(entry.link)}, which it does not hold") from None
        if stat.S_ISDIR(status.st_mode) or is_whiteout(status):
            raise HostileLayer(f"the layer links to {render_path(entry.link)}, which is no file")
        try:
            os.link(source[-1], parts[-1], src_dir_fd=origin, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            self._replace_by_link(source, parts)

    def _replace_by_link(self, source: list[bytes], parts: list[bytes]) -> None:
        if source[: len(parts)] == parts:
            raise HostileLayer(f"the layer replaces a directory by a link into it: {render_path(b'/'.join(parts))}")
        parent = self._tree.directory(parts[:-1])
        self._tree.remove(parent, parts)
        origin = self._tree.existing(source[:-1])
        os.link(source[-1], parts[-1], src_dir_fd=origin, dst_dir_fd=parent, follow_symlinks=False)

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

    def _apply_whiteout(self, parts: list[bytes]) -> None:
        if parts[-1] == OPAQUE_WHITEOUT:
            os.setxattr(self._tree.directory(parts[:-1]), OPAQUE, b"y")
            return
        if parts[-1].startswith(META_WHITEOUT):
            return
        name = parts[-1][len(WHITEOUT) :]
        if name in (b"", b".", b".."):
            raise HostileLayer(f"the layer holds the unsafe whiteout {render_path(parts[-1])}")
        parent = self._tree.directory(parts[:-1])
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.setxattr(self._tree.directory([*parts[:-1], name]), OPAQUE, b"y")


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

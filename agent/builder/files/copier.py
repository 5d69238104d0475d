"""COPY and WORKDIR: files into the image's own tree, written by descriptor, links followed inside of it only."""

from __future__ import annotations

import os
import posixpath
import stat

from agent.builder.dockerfile.modes import Mode
from agent.builder.files.entries import Entry, Source
from agent.builder.files.tree import FileTree
from agent.errors import Refused
from agent.kernel.openat import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from agent.oci.digest import render_shortened
from agent.runtime.keeper.paths import ensure_directory
from agent.values import frozen

_CONFINED = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
PARENT_MODE = 0o755


@frozen
class Dress:
    """What copied files get: an owner (uid, gid) and a mode, None for their own."""

    owner: tuple[int, int] | None = None
    mode: Mode | None = None

    @property
    def parent(self) -> tuple[int, int]:
        """The owner of directories that are made for the destination."""
        return self.owner or (0, 0)

    def owner_of(self, entry: Entry) -> tuple[int, int]:
        """The owner of an entry's copy."""
        return self.owner or (entry.uid, entry.gid)

    def mode_of(self, entry: Entry) -> int:
        """The permission bits of an entry's copy."""
        return stat.S_IMODE(entry.mode) if self.mode is None else self.mode.apply(entry.mode)


class Copier:
    """Writes below ``root``, a descriptor of the writable image, which nobody else changes meanwhile."""

    def __init__(self, root: int, dress: Dress) -> None:
        self._root = root
        self._dress = dress

    def copy(self, tree: FileTree, source: Source, destination: str) -> None:
        """Copy one source: a directory's content into the directory ``destination``, a file to or into it.

        Raises Refused for a directory in place of a file or the reverse, ContextChanged.
        """
        if source.is_directory:
            top = self.ensure(destination)
            try:
                _Filler(self, tree, source, top).fill()
            finally:
                os.close(top)
            return
        directory, name = self._choose(source, destination)
        parent = self.ensure(directory)
        try:
            self.write(tree, source, source.entries[0], parent, name)
        finally:
            os.close(parent)

    def _choose(self, source: Source, destination: str) -> tuple[str, str]:
        """Into a directory when the destination is one already or ends in a slash, else to that very name."""
        if destination.endswith("/") or self._is_directory(destination):
            return destination, source.name
        head, _, name = destination.rpartition("/")
        return head or "/", name

    def _is_directory(self, path: str) -> bool:
        try:
            os.close(openat2(self._root, path.lstrip("/") or ".", os.O_PATH | os.O_DIRECTORY, _CONFINED))
        except OSError:
            return False
        return True

    def ensure(self, path: str) -> int:
        """Open a directory of the image, made with its parents where it is missing. Raises Refused.

        One that is made is the copy's owner's, with the same mode whatever is copied into it, as for Docker.
        """
        parts = [part for part in path.split("/") if part]
        try:
            return self._open(parts)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _refuse(path, error.strerror) from None
        try:
            for end in range(1, len(parts) + 1):
                fd = self._step(parts[:end])
                if end < len(parts):
                    os.close(fd)
        except OSError as error:
            raise _refuse(path, error.strerror) from None
        return fd

    def _open(self, parts: list[str]) -> int:
        return openat2(self._root, "/".join(parts) or ".", _DIRECTORY, _CONFINED)

    def _step(self, parts: list[str]) -> int:
        try:
            return self._open(parts)
        except FileNotFoundError:
            os.close(ensure_directory(self._root, "/".join(parts), PARENT_MODE))
        fd = self._open(parts)
        os.fchown(fd, *self._dress.parent)
        os.fchmod(fd, PARENT_MODE)
        return fd

    def write(self, tree: FileTree, source: Source, entry: Entry, parent: int, name: str) -> None:
        """Write a file or a link as ``name`` in the directory ``parent``, in place of what is there."""
        if stat.S_ISLNK(entry.mode):
            self._symlink(entry, parent, name)
            return
        try:
            fd = os.open(name, _NEW, 0o600, dir_fd=parent)
        except FileExistsError:
            self.make_room(parent, name)
            fd = os.open(name, _NEW, 0o600, dir_fd=parent)
        try:
            tree.copy_file(source, entry, fd)
            self._finish(fd, entry)
        finally:
            os.close(fd)

    def _symlink(self, entry: Entry, parent: int, name: str) -> None:
        self.make_room(parent, name)
        os.symlink(entry.content, os.fsencode(name), dir_fd=parent)
        os.chown(name, *self._dress.owner_of(entry), dir_fd=parent, follow_symlinks=False)
        if entry.mtime is not None:
            os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def make_room(self, parent: int, name: str) -> None:
        """Remove a file or link that is in the way. Raises Refused for a directory."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            raise Refused(
                f"{render_shortened(name)} is a directory in the image and a file in what is copied",
                reason="CopyConflict",
            ) from None

    def _finish(self, fd: int, entry: Entry) -> None:
        os.fchown(fd, *self._dress.owner_of(entry))
        os.fchmod(fd, self._dress.mode_of(entry))
        for name, value in entry.xattrs:
            os.setxattr(fd, name, value)
        if entry.mtime is not None:
            os.utime(fd, ns=(entry.mtime, entry.mtime))

    def make_inside(self, parent: int, name: str, entry: Entry) -> int:
        """Open the directory ``name`` in ``parent``, made or taken over, with the mode of ``entry``."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            pass
        try:
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        except NotADirectoryError:
            raise Refused(
                f"{render_shortened(name)} is a directory in what is copied and a file or a link in the image",
                reason="CopyConflict",
            ) from None
        self._finish(fd, entry)
        return fd


class _Filler:
    """Copies a directory's content, keeping open only the directories on the way down."""

    def __init__(self, copier: Copier, tree: FileTree, source: Source, top: int) -> None:
        self._copier = copier
        self._tree = tree
        self._source = source
        self._open: list[tuple[str, int]] = [("", top)]
        self._times: list[int | None] = [None]

    def fill(self) -> None:
        try:
            for entry in self._source.entries[1:]:
                self._place(entry)
            while len(self._open) > 1:
                self._leave()
        finally:
            for _, fd in self._open[1:]:
                os.close(fd)

    def _leave(self) -> None:
        """Done with a directory: its own time is the last thing that is set."""
        fd, time = self._open[-1][1], self._times.pop()
        if time is not None:
            os.utime(fd, ns=(time, time))
        self._open.pop()
        os.close(fd)

    def _place(self, entry: Entry) -> None:
        head, name = posixpath.split(entry.path)
        while self._open[-1][0] != head:
            self._leave()
        parent = self._open[-1][1]
        if stat.S_ISDIR(entry.mode):
            self._open.append((entry.path, self._copier.make_inside(parent, name, entry)))
            self._times.append(entry.mtime)
        elif entry.twin is not None:
            self._copier.make_room(parent, name)
            os.link(entry.twin, name, src_dir_fd=self._open[0][1], dst_dir_fd=parent, follow_symlinks=False)
        else:
            self._copier.write(self._tree, self._source, entry, parent, name)


def make_working_directory(root: int, path: str, owner: tuple[int, int]) -> None:
    """WORKDIR's directory, made with its parents where they are missing. Raises Refused."""
    os.close(Copier(root, Dress(owner)).ensure(path))


def _refuse(path: str, why: str | None) -> Refused:
    return Refused(f"{render_shortened(path)} is no directory in the image: {why}", reason="CopyConflict")

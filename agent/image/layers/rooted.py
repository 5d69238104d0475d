"""Files beneath one directory, made by descriptor, never by path.

Every directory is opened from its parent with O_NOFOLLOW, so no symbolic link is ever walked through, whoever put
it there and whenever (attack rows 44 to 46); `..` and absolute names never get this far.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agent.image.errors import HostileLayer
from agent.kernel.removal import remove_tree
from agent.oci.digest import render_shortened

MAX_OPEN = 64
MAX_DEPTH = 128
MAX_PENDING = 1 << 20
"""Bytes of what is remembered of directories whose times are still to be set."""
MAX_IMPLIED = 50_000
_PENDING, _IMPLIED = 160, 120
"""Bytes that such a directory, and an implied one, take in memory beside their paths."""
OPAQUE = "trusted.overlay.opaque"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is overlayfs' mark for "gone from here down": a character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


class RootedTree:
    """A directory tree under construction. Paths are relative, of bytes, already split into checked components.

    ``implied`` gathers directories that no entry described; their attributes are found later. Directory times are
    set last, since making a child changes them.
    """

    def __init__(self, root: Path) -> None:
        self._fds: dict[bytes, int] = {b"": os.open(root, _DIRECTORY)}
        self._last: list[bytes] = []
        self._pending: dict[bytes, int] = {}
        self._pending_bytes = 0
        self.kept = 0
        """Bytes of what is remembered of implied directories."""
        self.implied: set[bytes] = {b""}

    def close(self) -> None:
        """Close every descriptor."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def trim(self) -> None:
        """Bound what is kept; to be called when no descriptor is in use. What comes next is likely near the last."""
        if len(self._fds) > MAX_OPEN:
            way = {b"/".join(self._last[:depth]) for depth in range(len(self._last) + 1)}
            for name in [name for name in self._fds if name not in way]:
                os.close(self._fds.pop(name))
        if self._pending_bytes > MAX_PENDING:
            self.flush_times()

    def _forget(self, path: bytes) -> None:
        """Close the descriptors of everything below ``path``, and of itself unless it is the root."""
        below = path + b"/" if path else b""
        for name in [name for name in self._fds if name and (name == path or name.startswith(below))]:
            os.close(self._fds.pop(name))

    def directory(self, parts: list[bytes]) -> int:
        """The descriptor of a directory, made (with its parents) when absent.

        Valid until the next ``trim``. Raises HostileLayer when a link or file is in the way.
        """
        path = b"/".join(parts)
        fd = self._fds.get(path)
        if fd is not None:
            return fd
        if len(parts) > MAX_DEPTH:
            raise HostileLayer(f"the layer nests directories deeper than {MAX_DEPTH}")
        depth = len(parts) - 1
        while (fd := self._fds.get(b"/".join(parts[:depth]))) is None:
            depth -= 1
        for end in range(depth + 1, len(parts) + 1):
            path = b"/".join(parts[:end])
            fd = self._open_child(fd, parts[end - 1], path)
            self._fds[path] = fd
        self._last = parts
        return fd

    def existing(self, parts: list[bytes]) -> int:
        """The descriptor of a directory that must be there already. Raises FileNotFoundError or HostileLayer."""
        path = b"/".join(parts)
        if path in self._fds:
            return self._fds[path]
        fd = self._fds[b""]
        for end in range(1, len(parts) + 1):
            path = b"/".join(parts[:end])
            known = self._fds.get(path)
            if known is None:
                os.stat(parts[end - 1], dir_fd=fd, follow_symlinks=False)
                known = self._fds[path] = self._open_child(fd, parts[end - 1], path)
            fd = known
        return fd

    def _open_child(self, parent: int, name: bytes, path: bytes) -> int:
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            return self._make_implied(parent, name, path)
        except NotADirectoryError:
            if not is_whiteout(os.stat(name, dir_fd=parent, follow_symlinks=False)):
                raise HostileLayer(f"the layer puts files below {render_path(path)}, which is no directory") from None
            os.unlink(name, dir_fd=parent)
            fd = self._make_implied(parent, name, path)
            os.setxattr(fd, OPAQUE, b"y")
            return fd
        if path not in self._pending and path not in self.implied:
            self._set_later(path, os.fstat(fd).st_mtime_ns)
        return fd

    def _set_later(self, path: bytes, mtime: int) -> None:
        self._pending[path] = mtime
        self._pending_bytes += len(path) + _PENDING

    def _make_implied(self, parent: int, name: bytes, path: bytes) -> int:
        self.kept += len(path) + _IMPLIED
        if len(self.implied) >= MAX_IMPLIED:
            raise HostileLayer(f"the layer leaves more than {MAX_IMPLIED} directories undescribed")
        os.mkdir(name, 0o755, dir_fd=parent)
        self.implied.add(path)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        os.fchown(fd, 0, 0)
        os.fchmod(fd, 0o755)
        return fd

    def make_directory(self, parts: list[bytes], mtime: int) -> int:
        """A directory that an entry describes: made, or taken over when it is there. Returns its descriptor."""
        path = b"/".join(parts)
        if parts:
            parent = self.directory(parts[:-1])
            try:
                os.mkdir(parts[-1], 0o755, dir_fd=parent)
            except FileExistsError:
                self._replace_by_directory(parent, parts[-1])
        self.implied.discard(path)
        self._set_later(path, mtime)
        return self.directory(parts)

    def _replace_by_directory(self, parent: int, name: bytes) -> None:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            return
        os.unlink(name, dir_fd=parent)
        os.mkdir(name, 0o755, dir_fd=parent)
        if is_whiteout(status):
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                os.setxattr(fd, OPAQUE, b"y")
            finally:
                os.close(fd)

    def remove(self, parent: int, parts: list[bytes]) -> None:
        """Remove what is at ``parts`` (directly in the open ``parent``), whole trees too, to make room."""
        status = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(parts[-1], dir_fd=parent)
            return
        self._forget(b"/".join(parts))
        for inner, _, _, _ in os.fwalk(parts[-1], dir_fd=parent):
            path = b"/".join((*parts[:-1], inner))
            self._pending.pop(path, None)
            self.implied.discard(path)
        remove_tree(os.fsdecode(parts[-1]), dir_fd=parent)

    def flush_times(self) -> None:
        """Set the times of the directories described so far, deepest first."""
        pending, self._pending = self._pending, {}
        self._pending_bytes = 0
        for path in sorted(pending, reverse=True):
            fd = self.directory(path.split(b"/") if path else [])
            os.utime(fd, ns=(pending[path], pending[path]))
            if len(self._fds) > MAX_OPEN:
                self._forget(b"")
        self._pending = {b"": pending[b""]} if b"" in pending else {}
        self._forget(b"")


def render_path(path: bytes) -> str:
    """A path of a layer for messages."""
    return render_shortened(path.decode("utf-8", "replace"), 200)

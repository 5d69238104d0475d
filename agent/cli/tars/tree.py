"""A root file system that comes as a tar, written as a directory: whoever runs the command owns what is written.

No link is followed, neither one of the tar nor one that was there, so nothing is written outside of the directory.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from agent.cli.tars.files import CHUNK, ChunkReader
from agent.errors import Conflict, Refused
from agent.kernel.openat import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OWN_MODE = 0o700


def write_tree(path: str, chunks: Iterable[bytes]) -> int:
    """Write a tree into a directory, which is made if it is not there; files of the same names are replaced.

    Returns how many devices, pipes and the like were left out. Raises Conflict, Refused.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        root = os.open(path, _DIRECTORY)
    except OSError as error:
        raise Conflict(f"{path}: {error.strerror}") from None
    try:
        return _Writer(root, path).run(chunks)
    finally:
        os.close(root)


class _Writer:
    """One tree. Modes of directories are set in the end, for one may forbid its owner to write."""

    def __init__(self, root: int, path: str) -> None:
        self._root = root
        self._path = path
        self._directories: list[tuple[str, int]] = []
        self._left_out = 0

    def run(self, chunks: Iterable[bytes]) -> int:
        with tarfile.open(fileobj=cast(IO[bytes], ChunkReader(iter(chunks))), mode="r|") as archive:
            for member in archive:
                name = _normalise(member.name)
                try:
                    self._write(archive, member, name)
                except OSError as error:
                    raise Conflict(f"{self._path}/{name}: {error.strerror}") from None
        for name, mode in reversed(self._directories):
            self._change_mode(self._open(name), mode)
        return self._left_out

    def _open(self, name: str) -> int:
        return openat2(self._root, name or ".", _DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)

    def _change_mode(self, directory: int, mode: int) -> None:
        """Closes the directory."""
        try:
            os.fchmod(directory, mode)
        finally:
            os.close(directory)

    @contextmanager
    def _parent(self, name: str) -> Iterator[tuple[int, str]]:
        """The directory of a name, open, and the last part of the name."""
        head, _, tail = name.rpartition("/")
        fd = self._open(head)
        try:
            yield fd, tail
        finally:
            os.close(fd)

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        mode = member.mode & (0o7777 if os.geteuid() == 0 else 0o777)
        if not name:
            return
        with self._parent(name) as (parent, last):
            if member.isdir():
                with suppress(FileExistsError):
                    os.mkdir(last, _OWN_MODE, dir_fd=parent)
                self._change_mode(os.open(last, _DIRECTORY, dir_fd=parent), mode | _OWN_MODE)
                self._directories.append((name, mode))
                return
            with suppress(FileNotFoundError):
                os.unlink(last, dir_fd=parent)
            if member.issym():
                os.symlink(member.linkname, last, dir_fd=parent)
            elif member.islnk():
                with self._parent(_normalise(member.linkname)) as (other, source):
                    os.link(source, last, src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
            elif member.isreg():
                with os.fdopen(os.open(last, _FRESH, 0o600, dir_fd=parent), "wb") as file:
                    shutil.copyfileobj(cast(IO[bytes], archive.extractfile(member)), file, CHUNK)
                    os.fchmod(file.fileno(), mode)
                    file.flush()
                    os.utime(file.fileno(), (member.mtime, member.mtime))
            else:
                self._left_out += 1


def _normalise(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refused(f"the tar names {name!r}, which leads out of it", reason="HostileTree")
    return "/".join(parts)

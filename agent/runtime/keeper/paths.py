"""Paths inside a container's root that its image or its neighbours may have laid out against us.

Law: every walk starts at the descriptor of the root, resolves links inside it and never follows a link of /proc
that leads to an open file or another process (attack rows 2, 9, 10, 11, 22).
"""

from __future__ import annotations

import errno
import os

from agent.kernel.openat import (
    PROC_SUPER_MAGIC,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
    read_filesystem_type,
)

_CONFINED = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_MAX_LINKS = 40


def open_inside(root: int, path: str, flags: int = 0, *, links: bool = True) -> int:
    """An O_PATH descriptor of ``path`` inside ``root``. With ``links`` off any symlink on the way is ELOOP."""
    resolve = _CONFINED if links else _CONFINED | RESOLVE_NO_SYMLINKS
    return openat2(root, path.lstrip("/") or ".", os.O_PATH | flags, resolve)


def refuse_proc(descriptor: int, path: str) -> None:
    """Raise OSError when ``descriptor`` lies in a procfs, where names lead to processes and their open files."""
    if read_filesystem_type(descriptor) == PROC_SUPER_MAGIC:
        raise OSError(errno.EPERM, "the path leads into /proc", path)


def open_working_directory(root: int, path: str) -> int:
    """The directory a process starts in. Raises OSError when it is missing, no directory, or in /proc (row 2)."""
    descriptor = open_inside(root, path, os.O_DIRECTORY)
    refuse_proc(descriptor, path)
    return descriptor


def ensure_directory(root: int, path: str, mode: int = 0o755) -> int:
    """Open the directory ``path``, made with its parents where missing."""
    return _ensure(root, path, mode, file=False)


def ensure_file(root: int, path: str) -> int:
    """Open the file ``path``, made empty where missing, with its parents. Never opens what is there for writing."""
    return _ensure(root, path, 0o755, file=True)


def _ensure(root: int, path: str, mode: int, *, file: bool) -> int:
    try:
        return open_inside(root, path)
    except FileNotFoundError:
        pass
    rest = [part for part in path.split("/") if part not in ("", ".")]
    done: list[str] = []
    links = 0
    while rest:
        part = rest.pop(0)
        if part == "..":
            done = done[:-1]
            continue
        if _make(root, done, part, file and not rest, mode):
            done.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(40, "too many symbolic links", path)
        target = _read_link(root, done, part)
        done = [] if target.startswith("/") else done
        rest = [piece for piece in target.split("/") if piece not in ("", ".")] + rest
    return open_inside(root, "/".join(done))


def _make(root: int, parents: list[str], name: str, file: bool, mode: int) -> bool:
    """Make ``name`` if it is missing; False when it is a link that leads nowhere yet and must be walked by hand."""
    whole = "/".join([*parents, name])
    try:
        os.close(open_inside(root, whole))
        return True
    except FileNotFoundError:
        pass
    parent = open_inside(root, "/".join(parents), os.O_DIRECTORY)
    try:
        refuse_proc(parent, whole)
        if file:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=parent))
        else:
            os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        return False
    finally:
        os.close(parent)
    return True


def _read_link(root: int, parents: list[str], name: str) -> str:
    parent = open_inside(root, "/".join(parents), os.O_DIRECTORY)
    try:
        return os.readlink(name, dir_fd=parent)
    finally:
        os.close(parent)

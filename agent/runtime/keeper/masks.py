"""Parts of /proc and /sys that a container must not see or change, and the few it asks to have changed."""

from __future__ import annotations

import os
import stat

from agent.kernel import mounts as m
from agent.kernel.openat import (
    PROC_SUPER_MAGIC,
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
    read_filesystem_type,
)
from agent.runtime.keeper.paths import open_inside

_QUIET = m.ATTR_RDONLY | m.ATTR_NOSUID | m.ATTR_NODEV | m.ATTR_NOEXEC
_PINNED = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV


def write_proc(proc: int, path: str, value: str) -> None:
    """Write to a file of the procfs whose root is ``proc``: no link, no mount on the way (attack rows 3, 5)."""
    if read_filesystem_type(proc) != PROC_SUPER_MAGIC:
        raise OSError(19, "not a proc filesystem", "/proc")
    descriptor = openat2(proc, path, os.O_WRONLY, _PINNED)
    try:
        os.write(descriptor, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(descriptor)


class Cover:
    """A mount to be shown in many places: itself in the first, copies of that one in the others.

    Kernels before 6.15 copy only what is attached, so the original goes first.
    """

    __slots__ = ("_attached", "_source")

    def __init__(self, source: int, *, attached: bool) -> None:
        self._source = source
        self._attached = attached

    def put(self, target: int) -> None:
        """Cover what ``target`` refers to."""
        if not self._attached:
            m.attach_mount(self._source, target)
            self._attached = True
            return
        source = m.clone_mount("", directory=self._source)
        m.attach_mount(source, target)
        os.close(source)


class Covers:
    """What files and directories are hidden behind: ``null`` is a mount of /dev/null."""

    __slots__ = ("_empty", "_null")

    def __init__(self, null: int, *, attached: bool) -> None:
        self._null = Cover(null, attached=attached)
        self._empty: Cover | None = None

    def put(self, target: int) -> None:
        """Hide what ``target`` refers to: a directory behind an empty read-only tmpfs, anything else behind null."""
        if not stat.S_ISDIR(os.stat(target).st_mode):
            self._null.put(target)
            return
        if self._empty is None:
            self._empty = Cover(m.create_filesystem("tmpfs", (("mode", "755"),), _QUIET), attached=False)
        self._empty.put(target)


def mask(root: int, paths: list[str], covers: Covers) -> None:
    """Hide what is there of ``paths``."""
    for path in paths:
        try:
            target = open_inside(root, path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        covers.put(target)
        os.close(target)


def make_readonly(root: int, paths: list[str]) -> None:
    """Bind each path on itself, read-only with all below."""
    for path in paths:
        try:
            target = open_inside(root, path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        source = m.clone_mount("", directory=target, recursive=True)
        m.set_attributes(source, m.ATTR_RDONLY, recursive=True)
        m.attach_mount(source, target)
        os.close(source)
        os.close(target)

"""An untrusted root seen from the host: an image's layers merged, or a running container's; and small files of it.

Law: paths inside are walked by descriptor, as if the root were ``/``, and never through a link of /proc. Nothing is
read but a regular file of a bounded size on an ordinary filesystem (attack rows 21 and 30).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.errors import NotFound, Refused
from agent.kernel import mounts as m
from agent.kernel.namespaces import CLONE_NEWNS, unshare
from agent.kernel.openat import (
    PROC_SUPER_MAGIC,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    SYSFS_MAGIC,
    openat2,
    read_filesystem_type,
)
from agent.kernel.process import read_bounded
from agent.kernel.threads import run_apart

_ATTRIBUTES = m.ATTR_RDONLY | m.ATTR_NOSUID | m.ATTR_NODEV | m.ATTR_NOEXEC
_FLAGS = m.MS_RDONLY | m.MS_NOSUID | m.MS_NODEV
_STAGE = "/proc"
KERNEL = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
TAKES_LAYERS = (6, 5)  # an older kernel says no too, and complains in its log every time
_MAX_DATA = 4095
_CGROUP, _CGROUP2, _DEBUGFS, _TRACEFS, _SECURITYFS = 0x27E0EB, 0x63677270, 0x64626720, 0x74726163, 0x73636673
_KERNEL_FILES = {PROC_SUPER_MAGIC, SYSFS_MAGIC, _CGROUP, _CGROUP2, _DEBUGFS, _TRACEFS, _SECURITYFS}
_MISSING = {errno.ENOENT, errno.ENOTDIR}
_HOSTILE = {errno.ELOOP, errno.ENAMETOOLONG, errno.EXDEV, errno.EAGAIN}


def open_merged(lower: Sequence[Path]) -> int:
    """A descriptor (O_PATH, the caller's to close) of a read-only view of ``lower``, the top-most layer first.

    The view is a detached mount: it is in nobody's mount table and goes away with its last descriptor. Raises OSError
    when a layer is missing.
    """
    empty = m.create_filesystem("tmpfs", (("size", "4k"), ("nr_inodes", "1"), ("mode", "755")), _ATTRIBUTES)
    if not lower:
        return empty
    try:
        return _create_overlay(lower, empty) if KERNEL >= TAKES_LAYERS else mount_apart(lower)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return mount_apart(lower)
    finally:
        os.close(empty)


def _create_overlay(lower: Sequence[Path], empty: int) -> int:
    """By fsopen(2), layer by layer: linux 6.5, and 6.15 for a lower layer that is a detached mount itself."""
    layers: list[int] = []
    try:
        for path in lower:
            layers.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))  # noqa: PERF401 (closed below)
        below = [] if len(layers) > 1 else [empty]
        options = [("lowerdir+", f"/proc/self/fd/{layer}") for layer in [*layers, *below]]
        return m.create_filesystem("overlay", options, _ATTRIBUTES)
    finally:
        for layer in layers:
            os.close(layer)


def mount_apart(lower: Sequence[Path]) -> int:
    """What ``open_merged`` does on older kernels: mount(2) in the private mount namespace of a short-lived thread.

    A copy of the mount outlives the thread and its namespace. Raises OSError, Refused for too many layers.
    """
    return run_apart("image-view", lambda: _mount_here(lower))


def _mount_here(lower: Sequence[Path]) -> int:
    unshare(CLONE_NEWNS)
    m.mount(None, "/", None, m.MS_PRIVATE | m.MS_REC)
    base = os.path.commonpath([path.parent for path in lower])
    os.chdir(base)
    m.mount("tmpfs", _STAGE, "tmpfs", m.MS_NODEV, "size=4k")
    empty, merged = f"{_STAGE}/empty", f"{_STAGE}/merged"
    for name in (empty, merged):
        Path(name).mkdir()
    layers = [m.escape_option(os.path.relpath(path, base), ":,") for path in lower]
    data = f"lowerdir={':'.join([*layers, empty])}"
    if len(os.fsencode(data)) > _MAX_DATA:
        raise Refused(f"the image has {len(lower)} layers, too many for this kernel to merge", reason="TooManyLayers")
    m.mount("overlay", merged, "overlay", _FLAGS, data)
    view = m.clone_mount(merged)
    m.set_attributes(view, _ATTRIBUTES)
    return view


@contextmanager
def merged_view(lower: Sequence[Path]) -> Iterator[int]:
    """``open_merged``, closed at the end."""
    view = open_merged(lower)
    try:
        yield view
    finally:
        os.close(view)


def open_container_root(pid: int) -> int:
    """A descriptor (O_PATH) of the root of a running process. Raises NotFound when it has ended.

    The caller makes sure, before and after, that ``pid`` is the process it means.
    """
    try:
        return os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        raise NotFound(f"process {pid} has ended") from None


def open_inside(root_fd: int, path: str, flags: int) -> int:
    """Open ``path`` as a process whose root is ``root_fd`` would, magic links refused. Raises OSError."""
    return openat2(root_fd, path.lstrip("/") or ".", flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def read_regular(root_fd: int, path: str, limit: int) -> bytes | None:
    """The content of a small file inside ``root_fd``, None when it is missing.

    Raises Refused for what is no regular file, lies on a filesystem of the kernel's own (/proc, /sys), is longer
    than ``limit`` bytes, or hides behind a loop of links.
    """
    try:
        found = open_inside(root_fd, path, os.O_PATH)
    except OSError as error:
        if error.errno in _MISSING:
            return None
        if error.errno in _HOSTILE:
            raise Refused(f"{path} cannot be reached: {error.strerror}") from None
        raise
    try:
        _check_regular(found, path, limit)
        return _read_limited(found, path, limit)
    finally:
        os.close(found)


def _check_regular(found: int, path: str, limit: int) -> None:
    status = os.fstat(found)
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f"{path} is no regular file")
    if read_filesystem_type(found) in _KERNEL_FILES:
        raise Refused(f"{path} leads to a file of the kernel")
    if status.st_size > limit:
        raise Refused(f"{path} is longer than {limit} bytes")


def _read_limited(found: int, path: str, limit: int) -> bytes:
    """Read what ``found`` (O_PATH) refers to: the very inode that was checked, whatever its name means now."""
    reader = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return read_bounded(reader, path, limit)
    except ValueError as error:
        raise Refused(str(error)) from None
    finally:
        os.close(reader)

"""/dev of a container: the default devices as binds of the host's own, the usual links, the console.

The binds lie on a tmpfs without device nodes (nodev), and no other mount of a container honours device nodes
either: CAP_MKNOD gives nothing, with or without a devices cgroup.
"""

from __future__ import annotations

import os
import stat

from agent.kernel import mounts as m

DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
)
NAMES = frozenset({*DEVICES, *(name for name, _ in _LINKS), "console", "pts", "shm", "mqueue"})


def clone_devices() -> dict[str, int]:
    """Detached mounts of the host's devices, each checked to be the character device it should be."""
    return {name: clone_device(name) for name in DEVICES}


def clone_device(name: str) -> int:
    """One of them. Raises OSError when the host's /dev/NAME is something else (attack row 6)."""
    descriptor = m.clone_mount(f"/dev/{name}")
    found = os.stat(descriptor)
    if not stat.S_ISCHR(found.st_mode) or (os.major(found.st_rdev), os.minor(found.st_rdev)) != DEVICES[name]:
        raise OSError(19, "not the device it should be", f"/dev/{name}")
    m.set_attributes(descriptor, m.ATTR_NOSUID | m.ATTR_NOEXEC, propagation=m.MS_PRIVATE)
    return descriptor


def fill_dev(dev: int, devices: dict[str, int]) -> None:
    """Put devices and links into ``dev``, the descriptor of a tmpfs that the container has not touched yet."""
    for name, source in devices.items():
        _attach(dev, name, source)
    for name, target in _LINKS:
        try:
            os.symlink(target, name, dir_fd=dev)
        except FileExistsError:
            continue


def attach_console(dev: int, terminal: int) -> None:
    """Bind the container's terminal on /dev/console, by descriptor (attack row 7)."""
    _attach(dev, "console", m.clone_mount("", directory=terminal))


def _attach(dev: int, name: str, source: int) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(name, flags, 0o666, dir_fd=dev))
    target = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dev)
    m.attach_mount(source, target)
    os.close(target)

"""Pseudo-terminals made inside a container's own devpts, and their size."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from agent.kernel.openat import DEVPTS_SUPER_MAGIC, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2, read_filesystem_type

_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431


def open_terminal(devpts: int) -> tuple[int, int]:
    """A new terminal ``(master, slave)`` of the devpts mounted at the directory ``devpts``.

    The slave comes from the master itself (TIOCGPTPEER), never by its name. Raises OSError when ``devpts`` is
    another filesystem.
    """
    if read_filesystem_type(devpts) != DEVPTS_SUPER_MAGIC:
        raise OSError(19, "it is not a devpts filesystem", "/dev/pts")
    flags = os.O_RDWR | os.O_NOCTTY
    master = openat2(devpts, "ptmx", flags, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    return master, fcntl.ioctl(master, _TIOCGPTPEER, flags | os.O_CLOEXEC)


def set_size(terminal: int, rows: int, columns: int) -> None:
    """Resize; the foreground process group gets SIGWINCH. Raises OSError when it is no terminal."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0))


def take_controlling(terminal: int) -> None:
    """Make it the controlling terminal of this session leader."""
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

"""inotify(7): being told that something in a directory has changed."""

from __future__ import annotations

import ctypes
import errno
import os
import select

from agent.kernel.syscalls import libc

MODIFY, MOVED_TO, CREATE, DELETE_SELF = 0x2, 0x80, 0x100, 0x400
_ONLY_DIRECTORY = 0x01000000
_BUFFER = 65536
_init = libc("inotify_init1", ctypes.c_int)
_add_watch = libc("inotify_add_watch", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


class Watch:
    """Changes in one directory. Not thread-safe. Raises OSError when the user's inotify limits are reached."""

    def __init__(self, path: str, mask: int) -> None:
        self._fd = _init(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _add_watch(self._fd, os.fsencode(path), mask | _ONLY_DIRECTORY)
        except BaseException:
            os.close(self._fd)
            raise
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """True when something has changed since the last call, at once or within ``seconds``."""
        if not self._poll.poll(seconds * 1000):
            return False
        try:
            os.read(self._fd, _BUFFER)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
        return True

    def close(self) -> None:
        """Stop watching."""
        os.close(self._fd)

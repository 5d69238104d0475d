"""The name server's files in the run root: its lock, its socket, its pid. They are there as long as it serves."""

from __future__ import annotations

import _socket
import fcntl
import os

from agent.kernel.daemons import write_pid
from agent.network.nameserver.protocol import JOURNAL_NAME, LOCK_NAME, PID_NAME, SOCKET_NAME

_BACKLOG = 16


class RunFiles:
    """Made by ``claim``, taken away by ``remove``; what a killed one left is taken over."""

    def __init__(self, run_root: str) -> None:
        self._root = run_root
        self._lock = -1

    def claim(self) -> bool:
        """Become the only name server of the run root; False when another one is. Raises OSError."""
        path = f"{self._root}/{LOCK_NAME}"
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.stat(path), os.fstat(lock)):
                    self._lock = lock
                    write_pid(f"{self._root}/{PID_NAME}")
                    return True
            except BlockingIOError:
                os.close(lock)
                return False
            except FileNotFoundError:
                pass
            os.close(lock)  # its owner has just taken the file away

    def listen(self) -> _socket.socket:
        """The bound control socket. By way of a descriptor of the directory: its path may have 107 bytes only."""
        self._unlink(SOCKET_NAME)
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        directory = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listener.bind(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        finally:
            os.close(directory)
        listener.listen(_BACKLOG)
        return listener

    def remove(self) -> None:
        """Take our files away, the lock last; only once, for then they may be those of another name server."""
        if self._lock < 0:
            return
        self._unlink(SOCKET_NAME)
        self._unlink(PID_NAME)
        if self._is_empty(JOURNAL_NAME):
            self._unlink(JOURNAL_NAME)
        self._unlink(LOCK_NAME)
        os.close(self._lock)
        self._lock = -1

    def _is_empty(self, name: str) -> bool:
        try:
            return os.stat(f"{self._root}/{name}").st_size == 0
        except OSError:
            return False

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(f"{self._root}/{name}")
        except OSError:
            pass  # somebody has taken it, or the whole run root, away

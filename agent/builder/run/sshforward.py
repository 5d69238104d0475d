"""``RUN --mount=type=ssh``: a socket for one step, which leads to the user's ssh agent as long as the step runs."""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.builder.dockerfile.mountspec import Dressing
from agent.errors import Stalled

MAX_CONNECTIONS = 16
CHUNK = 1 << 16
CONNECT_SECONDS = 10.0


@contextmanager
def forwarded(target: str, directory: Path, name: str, dressing: Dressing) -> Iterator[Path]:
    """A listening socket ``name`` in ``directory``, whose connections go to the socket at ``target``.

    Raises Stalled when there is no such socket.
    """
    _check(target)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{fd}/{name}")
        path = directory / name
        os.chown(path, dressing.uid, dressing.gid)
        path.chmod(dressing.mode)
        listener.listen(MAX_CONNECTIONS)
        forwarder = _Forwarder(listener, target)
        try:
            yield path
        finally:
            forwarder.stop()
    finally:
        os.close(fd)
        listener.close()


def _check(target: str) -> None:
    try:
        if target.startswith("/") and stat.S_ISSOCK(Path(target).stat().st_mode):
            return
    except OSError:
        pass
    raise Stalled(f"{target} is not the socket of an ssh agent", reason="InvalidSshAgent", hint="start ssh-agent")


class _Forwarder:
    """Accepts in a thread of its own, and has one more for each connection; ``stop`` ends them all."""

    def __init__(self, listener: socket.socket, target: str) -> None:
        self._listener = listener
        self._target = target
        self._awake, self._wake = socket.socketpair()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._stopped = False
        self._threads: list[threading.Thread] = [threading.Thread(target=self._accept, name="ssh-forward")]
        self._threads[0].start()

    def stop(self) -> None:
        """End every connection."""
        self._wake.close()
        self._threads[0].join()
        with self._lock:
            self._stopped = True
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        self._awake.close()

    def _accept(self) -> None:
        while self._awake not in _wait_readable(self._listener, self._awake):
            inside, _ = self._listener.accept()
            self._threads = [self._threads[0], *(one for one in self._threads[1:] if one.is_alive())]
            if len(self._threads) > MAX_CONNECTIONS:
                inside.close()
                continue
            thread = threading.Thread(target=self._serve, args=(inside,), name="ssh-forward")
            self._threads.append(thread)
            thread.start()

    def _serve(self, inside: socket.socket) -> None:
        with suppress(OSError), inside, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as outside:
            outside.settimeout(CONNECT_SECONDS)
            outside.connect(self._target)
            outside.settimeout(None)
            with self._lock:
                if self._stopped:
                    return
                self._open |= {inside, outside}
            try:
                _exchange(inside, outside)
            finally:
                with self._lock:
                    self._open -= {inside, outside}


def _exchange(one: socket.socket, other: socket.socket) -> None:
    """Pass everything on in both directions, until either end is closed."""
    while True:
        for end in _wait_readable(one, other):
            data = end.recv(CHUNK)
            if not data:
                return
            (other if end is one else one).sendall(data)


def _wait_readable(*ends: socket.socket) -> list[socket.socket]:
    poll = select.poll()
    for end in ends:
        poll.register(end, select.POLLIN)
    ready = {fd for fd, _ in poll.poll()}
    return [end for end in ends if end.fileno() in ready]

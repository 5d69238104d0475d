"""From a container's output to its log: one read, one writev, whatever the amount."""

from __future__ import annotations

import fcntl
import os

from agent.runtime.logframe import STDERR, STDOUT, FrameWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.keeper.loop import Loop

STREAMS = (("stdout", STDOUT), ("stderr", STDERR))
_CHUNK = 64 << 10
_PIPE_SIZE = 256 << 10
_DRAIN_LIMIT = 64


class Pump:
    """Reads one descriptor (a FIFO's end or a terminal's master) into a log."""

    __slots__ = ("_loop", "_writer", "fd", "stream")

    def __init__(self, loop: Loop, descriptor: int, stream: int, writer: FrameWriter) -> None:
        self._loop = loop
        self.stream = stream
        self._writer = writer
        self.fd = descriptor
        os.set_blocking(descriptor, False)
        loop.watch(descriptor, self._turn, bulk=True)

    def _turn(self, _events: int) -> None:
        if not self._move():
            self.close()

    def _move(self) -> bool:
        """Move one chunk; False at the end of the output."""
        self._writer.make_ready()
        try:
            data = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if data:
            self._writer.write(self.stream, data)
        return bool(data)

    def drain(self) -> None:
        """Move what is there now, at most some megabytes; then close."""
        for _ in range(_DRAIN_LIMIT if self.fd >= 0 else 0):
            try:
                data = os.read(self.fd, _CHUNK)
            except OSError:
                break
            if not data:
                break
            self._writer.write(self.stream, data)
        self.close()

    def close(self) -> None:
        """Stop reading."""
        if self.fd >= 0:
            self._loop.forget(self.fd)
            os.close(self.fd)
            self.fd = -1


def make_pipes(directory: str) -> None:
    """Make the two FIFOs of a container."""
    for name, _ in STREAMS:
        os.mkfifo(f"{directory}/{name}", 0o600)


def give_pipes(directory: str, uid: int, gid: int) -> None:
    """Give them to the container's user, who may so reopen /dev/stdout."""
    for name, _ in STREAMS if uid or gid else ():
        os.chown(f"{directory}/{name}", uid, gid)


def open_pipes(loop: Loop, directory: str, writer: FrameWriter) -> list[Pump]:
    """Read from both FIFOs of a container, new or left by an earlier keeper."""
    pumps = []
    for name, stream in STREAMS:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(f"{directory}/{name}", flags)
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        except OSError:
            pass
        pumps.append(Pump(loop, descriptor, stream, writer))
    return pumps

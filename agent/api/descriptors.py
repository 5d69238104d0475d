"""Pipes and terminals of a process on the event loop, with backpressure both ways."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import struct
import termios
from collections.abc import Callable

CHUNK = 64 << 10


class OutputReader:
    """Reads one descriptor as fast as its consumer allows. Owns nothing: the descriptor stays the caller's."""

    def __init__(self, descriptor: int, on_data: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._on_data = on_data
        self._on_end = on_end
        self._budget: int | None = None
        self._reading = False
        self.ended = False
        os.set_blocking(descriptor, False)

    def resume(self) -> None:
        """Read on."""
        if not self.ended and not self._reading:
            self._reading = True
            self._loop.add_reader(self._descriptor, self._read)

    def pause(self) -> None:
        """Stop reading; the process blocks when its pipe is full."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._descriptor)

    def finish(self) -> None:
        """The process has ended: read what it left and no more, though a child of it may hold the other end."""
        if self.ended or self._budget is not None:
            return
        self._budget = _readable(self._descriptor)
        if self._budget == 0:
            self._end()

    def end(self) -> None:
        """Read no more."""
        self.pause()
        self.ended = True

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal whose last process has gone
                self._end()
                return
            data = b""
        if not data:
            self._end()
            return
        self._on_data(data)
        if self._budget is not None:
            self._budget -= len(data)
            if self._budget <= 0:
                self._end()

    def _end(self) -> None:
        if not self.ended:
            self.end()
            self._on_end()


class InputWriter:
    """Writes to one descriptor what comes, holding at most what the client's window allows."""

    def __init__(self, descriptor: int, on_taken: Callable[[int], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._on_taken = on_taken
        self._buffer = bytearray()
        self._waiting = False
        self._close: Callable[[], None] | None = None
        self._closed = False
        os.set_blocking(descriptor, False)

    @property
    def held(self) -> int:
        """Bytes that the process has not taken yet."""
        return len(self._buffer)

    def write(self, data: bytes) -> None:
        """Queue some bytes."""
        if self._close is not None or self._closed:
            self._on_taken(len(data))
            return
        self._buffer += data
        self._flush()

    def close_when_written(self, close: Callable[[], None]) -> None:
        """End of file: call ``close`` as soon as everything is written."""
        self._close = close
        self._flush()

    def end(self) -> None:
        """Forget everything."""
        self._stop_waiting()
        self._buffer.clear()
        self._closed = True

    def _flush(self) -> None:
        while self._buffer:
            try:
                count = os.write(self._descriptor, self._buffer[:CHUNK])
            except BlockingIOError:
                break
            except OSError:  # nobody reads any more: what comes is swallowed, as a pipe to a dead process
                count = len(self._buffer)
                self._closed = True
            del self._buffer[:count]
            self._on_taken(count)
        if self._buffer and not self._waiting:
            self._waiting = True
            self._loop.add_writer(self._descriptor, self._flush)
        elif not self._buffer:
            self._stop_waiting()
            if self._close is not None and not self._closed:
                self._closed = True
                self._close()

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._waiting = False
            self._loop.remove_writer(self._descriptor)


def _readable(descriptor: int) -> int:
    with contextlib.suppress(OSError):
        return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0"))[0])
    return 0

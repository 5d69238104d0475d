"""The log file of a container: frames of raw output, written with one writev each and rotated by size.

A frame is HEADER (stream, payload length, time as unix nanoseconds) and then the payload exactly as the container
wrote it; lines are found when the log is read. ``container.log`` is the newest file, ``container.log.1`` the one
before it, and so on. A file that a power cut left short ends in half a frame, which a reader drops.

Law: imported by the keeper; standard library, no pathlib.
"""

from __future__ import annotations

import os
import struct
import time

HEADER = struct.Struct("<BxxxIQ")
STDOUT = 1
STDERR = 2
LOG_NAME = "container.log"
MAX_PAYLOAD = 1 << 20
_BLOCK = 1 << 20


def compute_log_name(generation: int) -> str:
    """The file name of a generation: 0 is being written, 1 is the one before it, and so on."""
    return f"{LOG_NAME}.{generation}" if generation else LOG_NAME


class FrameWriter:
    """Appends frames to the log in ``directory`` and rotates it. Not thread-safe.

    ``max_size`` is the size in bytes at which a file is closed, ``files`` how many are kept, the current one
    included. Output that cannot be written (disk full) is counted in ``dropped`` and lost, never waited for.
    """

    __slots__ = ("_directory", "_fd", "_files", "_max_size", "_size", "dropped")

    def __init__(self, directory: str, max_size: int, files: int) -> None:
        self._directory = directory
        self._max_size = max_size
        self._files = max(files, 1)
        self._fd = -1
        self._size = 0
        self.dropped = 0

    def write(self, stream: int, payload: bytes, at_ns: int | None = None) -> None:
        """Append one frame. Never raises for a full disk or a vanished directory."""
        header = HEADER.pack(stream, len(payload), time.time_ns() if at_ns is None else at_ns)
        self.make_ready()
        try:
            written = os.writev(self._fd, (header, payload))
        except OSError:
            self.dropped += len(payload)
            return
        if written != len(header) + len(payload):
            os.ftruncate(self._fd, self._size)
            self.dropped += len(payload)
            return
        self._size += written

    def make_ready(self) -> None:
        """Open or rotate the file where that is due. Done before output is read, little of it can die with us."""
        try:
            if self._fd < 0:
                self._open()
            elif self._size >= self._max_size:
                self._rotate()
        except OSError:
            return  # the write will fail too, and count it

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _path(self, generation: int) -> str:
        return f"{self._directory}/{compute_log_name(generation)}"

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path(0), flags, 0o600)
        self._size = os.fstat(self._fd).st_size
        whole = self._find_end()
        if whole != self._size:
            os.ftruncate(self._fd, whole)
            self._size = whole

    def _find_end(self) -> int:
        """Where the last whole frame ends: what follows is the half frame of a writer that was killed."""
        with_header = HEADER.size
        reader = os.open(self._path(0), os.O_RDONLY | os.O_CLOEXEC)
        try:
            base, position = 0, 0
            block = os.pread(reader, _BLOCK, 0)
            while position + with_header <= self._size:
                if position + with_header > base + len(block):
                    base, block = position, os.pread(reader, _BLOCK, position)
                stream, length, _ = HEADER.unpack_from(block, position - base)
                end = position + with_header + length
                if stream not in (STDOUT, STDERR) or end > self._size:
                    break
                position = end
            return position
        finally:
            os.close(reader)

    def _rotate(self) -> None:
        self.close()
        for generation in range(self._files - 1, 0, -1):
            try:
                os.rename(self._path(generation - 1), self._path(generation))
            except FileNotFoundError:
                continue
        if self._files == 1:
            os.unlink(self._path(0))
        self._open()

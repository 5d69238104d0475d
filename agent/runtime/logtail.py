"""Where the last lines of a log begin, found from its end without reading all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from agent.runtime.logfiles import LogFile
from agent.runtime.logframe import HEADER, MAX_PAYLOAD
from agent.runtime.loglines import STREAMS

_CHUNK = 1 << 20


def _zeros() -> dict[int, int]:
    return dict.fromkeys(STREAMS, 0)


@dataclass
class _Count:
    """What was seen between a place and the end: newlines, those of them within the tail, any bytes at all."""

    wanted: int
    partial: bool
    newlines: dict[int, int] = field(default_factory=_zeros)
    shown: dict[int, int] = field(default_factory=_zeros)
    heard: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)

    def add(self, stream: int, newlines: int, ends_line: bool) -> None:
        """One more frame towards the beginning."""
        if stream not in self.heard:
            self.heard.add(stream)
            if not ends_line and self.partial:
                if self.wanted:
                    self.wanted -= 1
                else:
                    self.dropped.add(stream)
        taken = min(newlines, self.wanted)
        self.wanted -= taken
        self.shown[stream] += taken
        self.newlines[stream] += newlines

    def is_enough(self) -> bool:
        """Whether every line of the tail begins after this place."""
        begun = (self.newlines[stream] > self.shown[stream] for stream in self.heard - self.dropped)
        return not self.wanted and all(begun)

    def compute_skip(self) -> dict[int, int]:
        """How many lines of each stream are to be passed over from this place on."""
        return {stream: self.newlines[stream] - self.shown[stream] + (stream in self.dropped) for stream in STREAMS}


def seek_tail(files: list[LogFile], lines: int, *, partial: bool) -> tuple[int, dict[int, int]]:
    """Set positions for the last ``lines`` lines: the index of the first file to read, and what to skip from there.

    Lines count by where they end, stdout and stderr together. With ``partial`` the bytes after a stream's last
    newline are a line; a stream that is silent in all that has to be read to find the others has none.
    """
    count = _Count(lines, partial)
    for index in range(len(files) - 1, -1, -1):
        file = files[index]
        for begin, end in reversed(_find_chunks(file)):
            for frame in reversed(list(_list_frames(file, begin, end))):
                count.add(*frame)
            if count.is_enough():
                file.position = begin
                return index, count.compute_skip()
    return 0, count.compute_skip()


def _find_chunks(file: LogFile) -> list[tuple[int, int]]:
    """Stretches of whole frames, each about a megabyte; the last ends where the whole frames end."""
    bounds = [0]
    position = 0
    for position in _list_ends(file):
        if position - bounds[-1] >= _CHUNK:
            bounds.append(position)
    if position > bounds[-1]:
        bounds.append(position)
    return list(pairwise(bounds))


def _list_ends(file: LogFile) -> Iterator[int]:
    """Where each frame ends."""
    unpack, with_header = HEADER.unpack_from, HEADER.size
    base = 0
    while base + with_header <= file.size:
        block = file.read_at(base, file.size)
        position, size = 0, len(block)
        while position + with_header <= size:
            stream, length, _ = unpack(block, position)
            end = position + with_header + length
            if end > size or stream not in STREAMS or length > MAX_PAYLOAD:
                break
            position = end
            yield base + position
        if not position:
            return
        base += position


def _list_frames(file: LogFile, begin: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """(stream, newlines, whether it ends with one) of each frame that holds anything, between two bounds."""
    unpack, with_header = HEADER.unpack_from, HEADER.size
    while begin < end:
        block = file.read_at(begin, end)
        position, size = 0, len(block)
        while position + with_header <= size:
            stream, length, _ = unpack(block, position)
            start = position + with_header
            if start + length > size:
                break
            position = start + length
            if length:
                yield stream, block.count(b"\n", start, position), block[position - 1] == 10
        if not position:
            return
        begin += position

"""Any frames, any rotation: the same lines as a naive reading byte by byte."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.runtime import logfiles, loglines, logtail
from agent.runtime.logframe import HEADER, LOG_NAME, FrameWriter
from agent.runtime.loglines import LogLine
from agent.runtime.logreader import LogReader
from tests.examples import examples

PIECE, BLOCK, CHUNK = 7, 64, 60
payload = st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\r", b"defghijk", b"\n\n"]), max_size=12).map(b"".join)
payload = payload.map(lambda data: data[: BLOCK - HEADER.size])
frames = st.lists(st.tuples(st.sampled_from([1, 1, 1, 2]), payload), max_size=40)
max_sizes = st.sampled_from([1, 40, 100, 300, 1 << 20])
Frames = list[tuple[int, bytes]]


@contextmanager
def small_limits() -> Iterator[None]:
    limits = (patch.object(loglines, "MAX_PIECE", PIECE), patch.object(logfiles, "BLOCK", BLOCK))
    with limits[0], limits[1], patch.object(logtail, "_CHUNK", CHUNK):
        yield


def split_naively(frames: Frames) -> tuple[list[LogLine], list[int], list[tuple[int, int]]]:
    """Pieces in the order in which they are told, the line each belongs to, and each line's (end, number)."""
    pieces: list[LogLine] = []
    line_of: list[int] = []
    ends: list[tuple[int, int]] = []
    pending, at, last_byte, number = {1: b"", 2: b""}, {1: 0, 2: 0}, {1: 0, 2: 0}, {1: 0, 2: 1}
    open_line = {1: False, 2: False}
    count, place = 2, 0
    for index, (stream, data) in enumerate(frames, 1):
        for byte in data:
            place += 1
            pending[stream] += bytes([byte])
            at[stream], last_byte[stream], open_line[stream] = index, place, True
            if byte == 10 or len(pending[stream]) == PIECE:
                pieces.append(LogLine(stream, float(index), pending[stream]))
                line_of.append(number[stream])
                pending[stream] = b""
            if byte == 10:
                ends.append((place, number[stream]))
                number[stream], count, open_line[stream] = count, count + 1, False
    for stream in sorted((1, 2), key=lambda stream: at[stream]):
        if pending[stream]:
            pieces.append(LogLine(stream, float(at[stream]), pending[stream]))
            line_of.append(number[stream])
        if open_line[stream]:
            ends.append((last_byte[stream], number[stream]))
    return pieces, line_of, sorted(ends)


def write_all(directory: Path, frames: Frames, max_size: int) -> None:
    writer = FrameWriter(str(directory), max_size, 70)
    for index, (stream, data) in enumerate(frames, 1):
        writer.write(stream, data, index * 1_000_000_000)
    writer.close()


@settings(max_examples=examples(150), deadline=None)
@given(frames=frames, max_size=max_sizes, since=st.integers(0, 40), half=st.binary(max_size=30))
def test_same_lines(frames: Frames, max_size: int, since: int, half: bytes) -> None:
    expected = [line for line in split_naively(frames)[0] if line.at >= since]
    with tempfile.TemporaryDirectory() as name, small_limits():
        write_all(Path(name), frames, max_size)
        with Path(name, LOG_NAME).open("ab") as stream:
            stream.write((HEADER.pack(1, 40, 7) + half)[: 16 + len(half)])
        for follow in (False, True):
            reader = LogReader(Path(name))
            found = reader.read(since=since, tail=None, follow=follow, stop=threading.Event(), ended=lambda: True)
            assert list(found) == expected


@settings(max_examples=examples(250), deadline=None)
@given(frames=frames, max_size=max_sizes, tail=st.integers(0, 12))
def test_same_tail(frames: Frames, max_size: int, tail: int) -> None:
    pieces, line_of, ends = split_naively(frames)
    wanted = {number for _, number in ends[len(ends) - min(tail, len(ends)) :]}
    with tempfile.TemporaryDirectory() as name, small_limits():
        write_all(Path(name), frames, max_size)
        reader = LogReader(Path(name))
        found = list(reader.read(since=0, tail=tail, follow=False, stop=threading.Event(), ended=lambda: True))
    assert found == [piece for piece, line in zip(pieces, line_of, strict=True) if line in wanted]


@settings(max_examples=25, deadline=None)
@given(frames=st.lists(st.tuples(st.sampled_from([1, 1, 2]), payload), min_size=20, max_size=60), max_size=max_sizes)
def test_following_a_writer_that_rotates(frames: Frames, max_size: int) -> None:
    expected = split_naively(frames)[0]
    found: list[LogLine] = []
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as name, small_limits():
        lines = LogReader(Path(name)).read(since=0, tail=None, follow=True, stop=threading.Event(), ended=ended.is_set)
        reader = threading.Thread(target=lambda: found.extend(lines))
        reader.start()
        write_all(Path(name), frames, max_size)
        ended.set()
        reader.join(60)
        assert not reader.is_alive()
    assert found == expected

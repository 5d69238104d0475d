from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.runtime.logframe import HEADER, LOG_NAME, STDERR, STDOUT, FrameWriter
from agent.runtime.loglines import MAX_PIECE
from agent.runtime.logreader import LogLine, LogReader

PATIENCE = 20.0
SECOND = 1_000_000_000


class Following:
    """A reader in a thread of its own."""

    def __init__(self, directory: Path, tail: int | None = None, since: float = 0.0) -> None:
        self.stop, self.ended, self.begun = threading.Event(), threading.Event(), threading.Event()
        self.lines: list[LogLine] = []
        self._looks = 0
        self._directory, self._tail, self._since = directory, tail, since
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        lines = LogReader(self._directory).read(
            since=self._since, tail=self._tail, follow=True, stop=self.stop, ended=self._has_ended
        )
        for line in lines:
            self.lines.append(line)

    def _has_ended(self) -> bool:
        """Asked before each look at the files, so from the second time on it is known where the first one began."""
        self._looks += 1
        if self._looks > 2:
            self.begun.set()
        return self.ended.is_set()

    def wait(self, count: int) -> list[bytes]:
        deadline = time.monotonic() + PATIENCE
        while len(self.lines) < count and time.monotonic() < deadline:
            time.sleep(0.005)
        return [line.data for line in self.lines]

    def finish(self, event: threading.Event) -> list[bytes]:
        event.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return [line.data for line in self.lines]


def read(directory: Path, tail: int | None = None, since: float = 0.0) -> list[LogLine]:
    stop = threading.Event()
    reader = LogReader(directory)
    return list(reader.read(since=since, tail=tail, follow=False, stop=stop, ended=lambda: True))


def texts(directory: Path, tail: int | None = None, since: float = 0.0) -> list[bytes]:
    return [line.data for line in read(directory, tail, since)]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[FrameWriter]:
    writer = FrameWriter(str(tmp_path), 1 << 20, 5)
    yield writer
    writer.close()


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_lines_of_both_streams(tmp_path: Path, writer: FrameWriter) -> None:
    writer.write(STDOUT, b"one\ntw", SECOND)
    writer.write(STDERR, b"err", 2 * SECOND)
    writer.write(STDOUT, b"o\r\n\n\x00\xff\n", 3 * SECOND)
    writer.write(STDERR, b"or\n", 4 * SECOND)
    writer.write(STDOUT, b"prompt> ", 5 * SECOND)
    assert read(tmp_path) == [
        (STDOUT, 1.0, b"one\n"),
        (STDOUT, 3.0, b"two\r\n"),
        (STDOUT, 3.0, b"\n"),
        (STDOUT, 3.0, b"\x00\xff\n"),
        (STDERR, 4.0, b"error\n"),
        (STDOUT, 5.0, b"prompt> "),
    ]
    assert texts(tmp_path, since=3.5) == [b"error\n", b"prompt> "]
    assert texts(tmp_path, tail=2) == [b"error\n", b"prompt> "]
    assert texts(tmp_path, tail=2, since=4.5) == [b"prompt> "]
    assert texts(tmp_path, tail=0) == []
    assert len(read(tmp_path, tail=10**12)) == 6
    line = read(tmp_path)[0]
    assert (line.stream, line.at, line.data) == (STDOUT, 1.0, b"one\n")


def test_no_log(tmp_path: Path) -> None:
    before = count_descriptors()
    assert read(tmp_path) == read(tmp_path, tail=3) == read(tmp_path / "missing") == []
    assert count_descriptors() <= before


def test_long_lines_come_in_pieces(tmp_path: Path, writer: FrameWriter) -> None:
    long = b"a" * (3 * MAX_PIECE + 5)
    for start in range(0, len(long), 10_000):
        writer.write(STDOUT, long[start : start + 10_000])
    writer.write(STDERR, b"between\n")
    writer.write(STDOUT, b"\n" + b"b" * (MAX_PIECE - 1) + b"\n" + b"c" * MAX_PIECE + b"\nend\n")
    found = read(tmp_path)
    sizes = [len(line.data) for line in found if line.stream == STDOUT]
    assert sizes == [MAX_PIECE, MAX_PIECE, MAX_PIECE, 6, MAX_PIECE, MAX_PIECE, 1, 4]
    assert b"".join(line.data for line in found if line.stream == STDOUT).startswith(long + b"\nbbb")
    assert [line.data[-5:] for line in read(tmp_path, tail=2)] == [b"ccccc", b"\n", b"end\n"]
    assert len(read(tmp_path, tail=4)) == 3 + 1 + 1 + 2 + 1


def test_tail_does_not_read_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = FrameWriter(str(tmp_path), 1 << 20, 6)
    for number in range(6 << 16):
        writer.write(STDOUT, b"%d\n" % number)
    bytes_read = 0
    original = os.pread

    def counted(fd: int, size: int, offset: int) -> bytes:
        nonlocal bytes_read
        data = original(fd, size, offset)
        bytes_read += len(data)
        return data

    monkeypatch.setattr(os, "pread", counted)
    assert texts(tmp_path, tail=3) == [b"%d\n" % number for number in range((6 << 16) - 3, 6 << 16)]
    assert bytes_read < 6 << 20
    writer.close()


def test_half_frames_are_waited_for(tmp_path: Path, writer: FrameWriter) -> None:
    writer.write(STDOUT, b"whole\n")
    writer.close()
    with (tmp_path / LOG_NAME).open("ab") as stream:
        stream.write(HEADER.pack(STDOUT, 100, 7) + b"half")
    assert texts(tmp_path) == texts(tmp_path, tail=5) == [b"whole\n"]
    following = Following(tmp_path)
    assert following.wait(1) == [b"whole\n"]
    writer.write(STDOUT, b"after the crash\n")
    assert following.wait(2) == [b"whole\n", b"after the crash\n"]
    assert following.finish(following.ended) == [b"whole\n", b"after the crash\n"]


def test_junk_ends_a_file_but_not_the_log(tmp_path: Path, writer: FrameWriter) -> None:
    writer.write(STDOUT, b"newer\n")
    good = HEADER.pack(STDOUT, 3, 7) + b"ok\n"
    (tmp_path / f"{LOG_NAME}.1").write_bytes(good + b"\0" * 4096)
    (tmp_path / f"{LOG_NAME}.2").write_bytes(good + HEADER.pack(STDOUT, (1 << 20) + 1, 7) + b"x" * 100)
    (tmp_path / f"{LOG_NAME}.3").write_bytes(b"")
    (tmp_path / f"{LOG_NAME}.4").write_bytes(HEADER.pack(9, 1, 7) + b"\n")
    assert texts(tmp_path) == texts(tmp_path, tail=9) == [b"ok\n", b"ok\n", b"newer\n"]
    assert texts(tmp_path, tail=2) == [b"ok\n", b"newer\n"]


def test_links_and_special_files_are_passed_over(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(HEADER.pack(STDOUT, 7, 7) + b"secret\n")
    log = tmp_path / "log"
    log.mkdir()
    (log / LOG_NAME).symlink_to(secret)
    os.mkfifo(log / f"{LOG_NAME}.1")
    (log / f"{LOG_NAME}.2").mkdir()
    for name in ("-1", "01", "x", "1.gz", "", "9" * 100):
        (log / f"{LOG_NAME}.{name}").write_bytes(secret.read_bytes())
    assert read(log) == []
    (tmp_path / "linked").symlink_to(log)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        read(tmp_path / "linked")


def test_following_ends_with_the_container(tmp_path: Path, writer: FrameWriter) -> None:
    before = count_descriptors()
    writer.write(STDOUT, b"one\n")
    following = Following(tmp_path)
    assert following.wait(1) == [b"one\n"]
    writer.write(STDOUT, b"tw")
    writer.write(STDOUT, b"o\nthr")
    assert following.wait(2) == [b"one\n", b"two\n"]
    writer.write(STDOUT, b"ee")
    assert following.finish(following.ended) == [b"one\n", b"two\n", b"three"]
    writer.close()
    assert count_descriptors() <= before


def test_following_stops_when_told(tmp_path: Path, writer: FrameWriter) -> None:
    writer.write(STDOUT, b"one\npart")
    following = Following(tmp_path)
    following.wait(1)
    assert following.finish(following.stop) == [b"one\n"]
    missing = Following(tmp_path / "missing")
    assert missing.finish(missing.stop) == []
    missing = Following(tmp_path / "missing")
    assert missing.finish(missing.ended) == []


def test_following_waits_for_the_directory(tmp_path: Path) -> None:
    following = Following(tmp_path / "later")
    (tmp_path / "later").mkdir()
    writer = FrameWriter(str(tmp_path / "later"), 1 << 20, 5)
    writer.write(STDOUT, b"here\n")
    assert following.wait(1) == [b"here\n"]
    following.finish(following.ended)
    writer.close()


def test_following_from_the_tail(tmp_path: Path, writer: FrameWriter) -> None:
    writer.write(STDOUT, b"one\ntwo\nthr")
    last, nothing = Following(tmp_path, tail=1), Following(tmp_path, tail=0)
    assert last.wait(1) == [b"two\n"]
    assert nothing.begun.wait(PATIENCE)
    writer.write(STDERR, b"error\n")
    writer.write(STDOUT, b"ee\n")
    assert last.wait(3) == [b"two\n", b"error\n", b"three\n"]
    assert nothing.wait(2) == [b"error\n", b"three\n"]
    last.finish(last.ended)
    nothing.finish(nothing.ended)


def test_a_truncated_file_is_read_from_its_start(tmp_path: Path, writer: FrameWriter) -> None:
    writer.write(STDOUT, b"before " * 100 + b"\n")
    following = Following(tmp_path)
    following.wait(1)
    os.truncate(tmp_path / LOG_NAME, 0)
    time.sleep(0.05)
    writer.write(STDOUT, b"after\n")
    assert following.wait(2)[1:] == [b"after\n"]
    following.finish(following.ended)


def test_a_slow_reader_loses_only_what_is_gone(tmp_path: Path) -> None:
    writer = FrameWriter(str(tmp_path), 200, 3)
    writer.write(STDOUT, b"0\n")
    stop, ended = threading.Event(), threading.Event()
    lines = LogReader(tmp_path).read(since=0, tail=None, follow=True, stop=stop, ended=ended.is_set)
    assert next(lines).data == b"0\n"
    for number in range(1, 100):
        writer.write(STDOUT, b"%d\n" % number)
    ended.set()
    found = [int(line.data) for line in lines]
    assert found == sorted(set(found))
    assert found[:5] == [1, 2, 3, 4, 5]
    assert found[-15:] == list(range(85, 100))
    writer.close()

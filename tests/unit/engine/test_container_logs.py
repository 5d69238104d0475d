"""The log of a container behind that of its predecessor, and which predecessor's log is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.engine.containerlogs import ContainerLogs, LogRange, count_lines
from agent.engine.model import ContainerConfig, ContainerRecord, ContainerState
from agent.runtime.logframe import STDERR, STDOUT, FrameWriter
from agent.runtime.loglines import MAX_PIECE
from agent.runtime.logreader import LogLine
from agent.store.layout import DataLayout

SECOND = 1_000_000_000


def record(letter: str, name: str = "web") -> ContainerRecord:
    return ContainerRecord(letter * 64, ContainerConfig(name=name, image="sha256:0"), ContainerState.EXITED)


class Bench:
    def __init__(self, root: Path) -> None:
        self.layout = DataLayout(root)
        self.layout.create()
        self.logs = ContainerLogs(self.layout)

    def write(self, letter: str, *lines: str, at: int = 1) -> ContainerRecord:
        directory = self.layout.container(letter * 64) / "logs"
        directory.mkdir(parents=True, exist_ok=True)
        writer = FrameWriter(str(directory), 1 << 20, 5)
        for line in lines:
            writer.write(STDOUT, line.encode(), at * SECOND)
        writer.close()
        return record(letter)

    def read(self, of: ContainerRecord, tail: int | None = None, since: float = 0, follow: bool = False) -> list[str]:
        wanted = LogRange(since, tail, follow, threading.Event(), lambda: True)
        return [line.data.decode().rstrip("\n") for line in self.logs.read(of, wanted, predecessor=True)]

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.layout.logs.iterdir())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("tail", [None, 0, 1, 2, 3, 4, 5, 6, 10**12])
def test_tail_counts_over_both(bench: Bench, tail: int | None, follow: bool) -> None:
    bench.logs.keep(bench.write("a", "1\n", "2\n", "3\n"))
    new = bench.write("b", "4\n", "5\n", at=2)
    everything = ["1", "2", "3", "4", "5"]
    expected = everything if tail is None else everything[max(5 - tail, 0) :]
    assert bench.read(new, tail, follow=follow) == expected


def test_since_is_respected_in_both(bench: Bench) -> None:
    old = bench.write("a", "1\n", at=1)
    bench.write("a", "2\n", at=2)
    bench.logs.keep(old)
    new = bench.write("b", "3\n", at=3)
    assert bench.read(new, since=1.5) == ["2", "3"]
    assert bench.read(new, since=2.5) == ["3"]
    assert bench.read(new, tail=3, since=1.5) == ["2", "3"]


def test_line_without_its_end_is_a_line(bench: Bench) -> None:
    bench.logs.keep(bench.write("a", "1\n", "Segmentation"))
    new = bench.write("b", "2\n", "prompt>", at=2)
    assert bench.read(new, tail=3) == ["Segmentation", "2", "prompt>"]
    assert bench.read(new, tail=1) == ["prompt>"]
    assert bench.read(new, tail=2, follow=True) == ["Segmentation", "2", "prompt>"]


def test_new_container_that_is_silent_shows_the_old_one(bench: Bench) -> None:
    bench.logs.keep(bench.write("a", "1\n", "2\n"))
    assert bench.read(record("b"), tail=1) == ["2"]


def test_one_predecessor_is_kept(bench: Bench) -> None:
    for letter in "abc":
        bench.logs.keep(bench.write(letter, f"{letter}\n"))
    assert bench.kept() == ["web"]
    assert bench.read(record("d")) == ["c"]
    bench.logs.sweep({"web"})
    assert bench.kept() == ["web"]
    bench.logs.forget("web")
    assert bench.kept() == []
    assert bench.read(record("d")) == []


def test_crash_at_any_place_loses_no_log(bench: Bench) -> None:
    """Between the renames, and between the second and the end of the removal."""
    bench.logs.keep(bench.write("a", "a\n"))
    old = bench.write("b", "b\n")
    directory = bench.layout.container(old.id)
    bench.layout.kept_log("web").rename(directory / "logs-replaced")
    bench.logs.keep(bench.write("c", "c\n"))
    bench.logs.keep(old)
    assert bench.read(record("d")) == ["b"]
    bench.logs.keep(old)
    assert bench.read(record("d")) == ["b"]


def test_sweep_removes_names_without_a_container(bench: Bench) -> None:
    bench.logs.keep(bench.write("a", "a\n"))
    bench.logs.sweep({"other"})
    assert bench.kept() == []


@pytest.mark.parametrize("name", ["", ".", "..", "../containers", "a/b", "/etc", "x" * 256, ".hidden"])
def test_what_is_no_file_name_is_not_kept(bench: Bench, name: str) -> None:
    bench.write("a", "a\n")
    bench.logs.keep(record("a", name))
    bench.logs.forget(name)
    assert bench.kept() == []
    assert bench.read(record("a", name)) == ["a"]


def test_link_is_not_followed(bench: Bench, tmp_path: Path) -> None:
    bench.write("a", "secret\n")
    bench.layout.kept_log("web").symlink_to(bench.layout.container("a" * 64) / "logs")
    new = bench.write("b", "b\n")
    assert bench.read(new) == ["b"]
    bench.logs.keep(new)
    assert bench.read(record("c")) == ["b"]
    assert (bench.layout.container("a" * 64) / "logs/container.log").exists()


def test_log_that_cannot_be_kept_is_no_error(bench: Bench) -> None:
    bench.layout.logs.rmdir()
    old = bench.write("a", "a\n")
    bench.logs.keep(old)
    assert bench.read(old) == ["a"]


def test_counting_stops_at_the_limit() -> None:
    def pieces() -> Iterator[LogLine]:
        yield LogLine(STDOUT, 1.0, b"x" * MAX_PIECE)
        yield LogLine(STDERR, 1.0, b"1\n")
        yield LogLine(STDOUT, 1.0, b"x\n")
        yield LogLine(STDERR, 1.0, b"begun")

    assert [count_lines(pieces(), limit, partial=True) for limit in (0, 1, 2, 3, 4)] == [0, 1, 2, 3, 3]
    assert [count_lines(pieces(), limit, partial=False) for limit in (0, 1, 2, 3)] == [0, 1, 2, 2]

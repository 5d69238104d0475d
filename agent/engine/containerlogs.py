"""What containers wrote: each one's own log, before it that of its predecessor, the last one removed of the same name.

The predecessor's log tells why it ended when its replacement runs already. One is kept for each name; it goes when
no container has that name any more.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from agent.engine.directories import LOGS
from agent.engine.model import ContainerRecord
from agent.kernel.removal import discard_tree
from agent.runtime.logreader import LogLine, LogReader
from agent.store.layout import DataLayout
from agent.telemetry.logging import get_logger
from agent.values import frozen

_REPLACED = "logs-replaced"
_FILE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}\Z", re.ASCII)


@frozen
class LogRange:
    """What of a log is wanted, as ``LogReader.read`` takes it."""

    since: float
    tail: int | None
    follow: bool
    stop: threading.Event
    ended: Callable[[], bool]


class ContainerLogs:
    """Thread-safe; calls block. Whatever a crash interrupts may be done again."""

    def __init__(self, layout: DataLayout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._log = get_logger("engine")

    def read(self, record: ContainerRecord, wanted: LogRange, *, predecessor: bool) -> Iterator[LogLine]:
        """The lines of a container, after those of its predecessor if these are wanted too."""
        own = LogReader(self._layout.container(record.id) / LOGS)
        kept = self._place(record.name) if predecessor else None
        if kept is None or kept.is_symlink() or not kept.is_dir():
            return _read(own, wanted, wanted.tail)
        return read_both(LogReader(kept), own, wanted)

    def keep(self, record: ContainerRecord) -> None:
        """Make the log of an ended container, whose directory goes next, the one that is kept for its name.

        The log kept before goes with that directory. A log that cannot be kept is no reason to keep the container.
        """
        kept, directory = self._place(record.name), self._layout.container(record.id)
        source, replaced = directory / LOGS, directory / _REPLACED
        if kept is None or not source.is_dir():
            return
        try:
            with self._lock:
                discard_tree(replaced)
                with contextlib.suppress(FileNotFoundError):
                    kept.rename(replaced)
                source.rename(kept)
        except OSError as error:
            self._log.warning("a log is not kept", container=record.name, error=str(error))

    def forget(self, name: str) -> None:
        """No container has this name any more."""
        kept = self._place(name)
        if kept is not None:
            discard_tree(kept)

    def sweep(self, names: Collection[str]) -> None:
        """Remove what is kept for names that no container has."""
        for path in self._layout.logs.iterdir():
            if path.name not in names:
                discard_tree(path)

    def _place(self, name: str) -> Path | None:
        """Where the log of a name's predecessor is kept; None for what is no file name."""
        return self._layout.kept_log(name) if _FILE_NAME.match(name) else None


def read_both(kept: LogReader, own: LogReader, wanted: LogRange) -> Iterator[LogLine]:
    """The lines of two logs, one after the other; the tail counts over both, and only the second is followed."""
    if wanted.tail is None:
        rest, tail = None, None
    else:
        rest, tail = _divide_tail(own, wanted, wanted.tail)
    if rest != 0:
        yield from kept.read(since=wanted.since, tail=rest, follow=False, stop=wanted.stop, ended=lambda: True)
    yield from _read(own, wanted, tail)


def _divide_tail(own: LogReader, wanted: LogRange, tail: int) -> tuple[int, int | None]:
    """How many of the last ``tail`` lines are the predecessor's, and the tail of its successor: all, if it has less."""
    pieces = own.read(since=0.0, tail=None, follow=False, stop=wanted.stop, ended=lambda: True)
    count = count_lines(pieces, tail, partial=not wanted.follow)
    return (0, tail) if count == tail else (tail - count, None)


def count_lines(pieces: Iterable[LogLine], limit: int, *, partial: bool) -> int:
    """How many lines these pieces are, and no more read of them than ``limit`` takes.

    With ``partial`` what follows the last newline of a stream is a line too.
    """
    lines, begun = 0, set[int]()
    for piece in pieces:
        if lines >= limit:
            break
        if piece.data.endswith(b"\n"):
            lines += 1
            begun.discard(piece.stream)
        else:
            begun.add(piece.stream)
    return min(limit, lines + len(begun) if partial else lines)


def _read(log: LogReader, wanted: LogRange, tail: int | None) -> Iterator[LogLine]:
    return log.read(since=wanted.since, tail=tail, follow=wanted.follow, stop=wanted.stop, ended=wanted.ended)

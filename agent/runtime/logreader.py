"""Reading a container's log: all of it or its tail, and what comes after it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from agent.kernel import inotify
from agent.runtime.logfiles import LogFile, LogFiles
from agent.runtime.loglines import LineCutter, LogLine
from agent.runtime.logtail import seek_tail

__all__ = ["LogLine", "LogReader"]

_NOTICE = 0.5
_CHANGES = inotify.MODIFY | inotify.CREATE | inotify.MOVED_TO | inotify.DELETE_SELF


class Watching(Protocol):
    """Tells when something may have changed."""

    def wait(self, seconds: float) -> bool:
        """True when there may be more, at once or within ``seconds``."""

    def close(self) -> None:
        """End it."""


def _watch(path: str) -> Watching:
    return inotify.Watch(path, _CHANGES)


class LogReader:
    """The log in ``directory``, which the keeper may be writing and rotating. Each ``read`` stands on its own.

    ``watch``, given the directory, says when to look for more.
    """

    def __init__(self, directory: Path, watch: Callable[[str], Watching] = _watch) -> None:
        self._directory = directory
        self._watch = watch

    def read(
        self, *, since: float, tail: int | None, follow: bool, stop: threading.Event, ended: Callable[[], bool]
    ) -> Iterator[LogLine]:
        """The lines, oldest first; blocking.

        ``since`` is unix time; ``tail`` the number of last lines to begin with, None for all. Without ``follow``
        the end is where the log ended when it was opened. With it, new lines are waited for until ``ended`` is true
        and everything is read, or ``stop`` is set (noticed within half a second); a last line without a newline
        comes when the container has ended.
        """
        files = self._open(follow, stop, ended)
        if files is None:
            return
        try:
            skip = None
            if tail is not None:
                first, skip = seek_tail(files.files, tail, partial=not follow)
                files.skip_to(first)
            cutter = LineCutter(since, skip)
            lines = self._follow(files, cutter, stop, ended) if follow else _read_all(files, cutter, stop)
            yield from lines
            if not stop.is_set():
                yield from cutter.flush()
        finally:
            files.close()

    def _open(self, follow: bool, stop: threading.Event, ended: Callable[[], bool]) -> LogFiles | None:
        """The files; None when there are none and none will come."""
        while True:
            last_time = not follow or ended()
            try:
                return LogFiles(self._directory)
            except FileNotFoundError:
                if last_time or stop.wait(_NOTICE):
                    return None

    def _follow(
        self, files: LogFiles, cutter: LineCutter, stop: threading.Event, ended: Callable[[], bool]
    ) -> Iterator[LogLine]:
        watch = self._watch(f"/proc/self/fd/{files.directory}")
        try:
            while not stop.is_set():
                last_time = ended()
                yield from _catch_up(files, cutter, stop)
                if last_time:
                    return
                watch.wait(_NOTICE)
        finally:
            watch.close()


def _read_all(files: LogFiles, cutter: LineCutter, stop: threading.Event) -> Iterator[LogLine]:
    for file in files.files:
        yield from _drain(file, cutter, stop, file.size)


def _drain(file: LogFile, cutter: LineCutter, stop: threading.Event, end: int | None = None) -> Iterator[LogLine]:
    """Everything that is in the file now, or up to ``end``."""
    while not stop.is_set():
        block = file.read(end)
        if not block:
            return
        yield from cutter.cut(block)
        if not cutter.consumed:
            return
        file.position += cutter.consumed


def _catch_up(files: LogFiles, cutter: LineCutter, stop: threading.Event) -> Iterator[LogLine]:
    """Everything that is written by now. A file is left only after it was read once more when its successor was
    there already: from then on nobody writes to it.
    """
    for file in files.files:
        yield from _drain(file, cutter, stop)
    files.skip_to(-1)
    while not stop.is_set() and (successor := files.find_next()) is not None:
        try:
            if files.files:
                yield from _drain(files.files[-1], cutter, stop)
        finally:
            files.append(successor)
        yield from _drain(successor, cutter, stop)

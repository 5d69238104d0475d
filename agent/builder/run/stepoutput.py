"""What a RUN step prints: followed while it runs, told line by line, its end kept for the fault that it may have."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from agent.builder.run.redaction import Redaction
from agent.runtime.logreader import LogReader

TAIL_LINES, MAX_LINE = 40, 2000
_LOOK_SECONDS = 0.05
_VISIBLE = dict.fromkeys((*range(9), *range(10, 32), *range(127, 160)), "?")


class StepOutput:
    """The log of a step, which goes on until ``ended`` is done: each line is said, the last ones are kept."""

    def __init__(self, directory: Path, ended: Future[Any], say: Callable[[str], None], redaction: Redaction) -> None:
        self._ended = ended
        self._reader = LogReader(directory, lambda _path: _Beat(ended))
        self._say = say
        self._redaction = redaction
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)

    @property
    def tail(self) -> str:
        """The last lines, as text."""
        return "\n".join(self._lines)

    def follow(self, stop: threading.Event) -> None:
        """Until the step has ended and all that it printed is said, or ``stop`` is set."""
        for line in self._reader.read(since=0.0, tail=None, follow=True, stop=stop, ended=self._ended.done):
            whole = self._redaction.apply(line.data.decode("utf-8", "replace").rstrip("\r\n"))
            text = whole[:MAX_LINE].translate(_VISIBLE)
            self._lines.append(text)
            self._say(text)


class _Beat:
    """When to look at the log again: every so often, and when its step has ended. To make and to end a watch of
    inotify(7) would take the kernel longer than many a step runs."""

    def __init__(self, ended: Future[Any]) -> None:
        self._over = threading.Event()
        ended.add_done_callback(lambda _: self._over.set())

    def wait(self, _seconds: float) -> bool:
        """True: there may be something new."""
        self._over.wait(_LOOK_SECONDS)
        return True

    def close(self) -> None:
        """There is nothing to give back."""

"""What is too fresh to be believed: a file that somebody has open for writing, an app that has just become invalid, or
that has just gone. For a moment what was known before stays in force; whatever is valid is taken at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from agent.source.revision import AppFiles
from agent.source.scan import Loaded
from agent.values import frozen

WRITING_SECONDS = 5.0
INVALID_SECONDS = 0.25
GONE_SECONDS = 0.01
GIT_SECONDS = 30.0
CLONE_SECONDS = 300.0
_SHORTEST, _LONGEST = 0.01, 0.5


@frozen
class Held:
    """An app that is not taken yet: since when at all, and since when as it is now."""

    first: float
    since: float
    state: tuple[float, str]


class Settling:
    """The judgement of one follower of the directory, scan after scan."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before: dict[str, Held] = {}
        self._held: dict[str, Held] = {}
        self._first = True
        self.incomplete = False
        """Whether the scan is not to be used at all: something is missing of which nothing is known, or it may just be
        on its way to another name."""

    def begin(self, *, first: bool) -> None:
        """A scan begins; the ``first`` one has nothing from before that could stay in force."""
        self._first, self.incomplete = first, False
        self._before, self._held = self._held, {}

    @property
    def pause(self) -> float | None:
        """Seconds until it is worth looking again; None when all is settled. The longer it takes, the longer."""
        if not self._held:
            return None
        age = self._clock() - max(held.since for held in self._held.values())
        return min(max(age / 4, _SHORTEST), _LONGEST)

    def take(self, key: str, before: AppFiles | None, after: Loaded | None) -> bool:
        """Whether to take an app as it is now (see ``scan.Verdict``)."""
        patience = self._patience(before, after)
        if not patience:
            return True
        now, state = self._clock(), (patience, after.files.digest if after is not None else "")
        held = self._before.get(key) or Held(now, now, state)
        if held.state != state:
            held = Held(held.first, now, state)
        if now - held.since >= patience or now - held.first >= WRITING_SECONDS:
            return True
        self._held[key] = held
        self.incomplete = self.incomplete or after is None or (self._first and before is None)
        return False

    def _patience(self, before: AppFiles | None, after: Loaded | None) -> float:
        if after is None:
            return GONE_SECONDS
        if before is not None and before.digest == after.files.digest:
            return 0.0
        if after.unsettled:
            return WRITING_SECONDS
        was_valid = before.app is not None if before is not None else not self._first
        return INVALID_SECONDS if was_valid and after.files.app is None else 0.0


def is_git_busy(directory: Path, now: float) -> bool:
    """Whether git is changing the checkout that a directory lies in: it holds the lock of its index, or has cloned but
    not checked out yet. What a dead git has left behind counts for a while only. ``now``: epoch seconds."""
    for parent in (directory, *directory.parents):
        git = parent / ".git"
        if git.is_dir():
            if _is_recent(git / "index.lock", now, GIT_SECONDS):
                return True
            return not (git / "index").exists() and _is_bare(parent) and _is_recent(git, now, CLONE_SECONDS)
    return False


def _is_bare(directory: Path) -> bool:
    try:
        return [entry.name for entry in directory.iterdir()] == [".git"]
    except OSError:
        return False


def _is_recent(path: Path, now: float, seconds: float) -> bool:
    try:
        return abs(now - path.stat().st_mtime) < seconds
    except OSError:
        return False

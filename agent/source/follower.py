"""One look after the other at a directory, each in a thread: what there is now, and when to look again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from agent.errors import HoldfastError, Waiting
from agent.source.place import RETRY_SECONDS
from agent.source.reader import KeyFile
from agent.source.revision import Revision
from agent.source.scan import scan
from agent.source.settling import Settling, is_git_busy
from agent.source.tree import Tree
from agent.source.watch import Watch
from agent.values import frozen

RESCAN_SECONDS = 5.0
BLIND_SECONDS = 1.0
ABSENT_SECONDS = 0.05
GRACE_SECONDS = 0.15
STEADY_SECONDS = 0.3
NOT_MOUNTED = "SourceNotMounted"
GIT_PAUSE = 0.05


@frozen
class Look:
    """What one look found. ``settled``: it can be relied on; if not, ``revision`` may still be given, as it holds what
    was known before of all that is not. ``pause``: when to look again if nothing wakes."""

    revision: Revision | None
    settled: bool
    pause: float
    fault: HoldfastError | None = None


class Follower:
    """The state of one who follows the directory. Lives on the loop."""

    def __init__(
        self, path: Path, previous: Revision | None, keys: KeyFile | None = None, *, absent: bool = False
    ) -> None:
        """``absent``: the directory could not be read when it was last looked at."""
        self._path = path
        self._keys = keys
        self._previous = previous
        self._settling = Settling()
        self._tree = Tree()
        self._awake = asyncio.Event()
        self._watch = Watch(self._awake.set)
        self._absent_since: float | None = -GRACE_SECONDS if absent else None
        self._returned: tuple[str, float] | None = None
        self._waiting: list[asyncio.Future[None]] = []

    def ask(self) -> asyncio.Future[None]:
        """Have it look now; done when the state as it is now has been given, or cannot be."""
        request = asyncio.get_running_loop().create_future()
        self._waiting.append(request)
        self._awake.set()
        return request

    def begin(self) -> list[asyncio.Future[None]]:
        """The requests that the look which begins now answers."""
        self._awake.clear()
        waiting, self._waiting = self._waiting, []
        return waiting

    def put_back(self, requests: list[asyncio.Future[None]]) -> None:
        """These have to wait for a later look."""
        self._waiting = [*requests, *self._waiting]

    async def look(self) -> Look:
        """Look once; the watch is in place before that. Never raises HoldfastError."""
        surroundings = await asyncio.to_thread(self._tree.explore, self._path)
        while await self._watch.arm(surroundings):
            surroundings = await asyncio.to_thread(self._tree.explore, self._path)
        try:
            look = await asyncio.to_thread(self._scan)
        except HoldfastError as fault:
            return self._judge_fault(fault)
        look = self._judge_return(look)
        self._previous = look.revision or self._previous
        return look

    async def wait(self, seconds: float) -> None:
        """Until something changes, somebody asks, or the time is over."""
        try:
            async with asyncio.timeout(seconds if self._watch.works else min(seconds, BLIND_SECONDS)):
                await self._awake.wait()
        except TimeoutError:
            pass

    async def close(self) -> None:
        """Stop, and let nobody wait."""
        for request in self.begin():
            release(request)
        await self._watch.close()

    def _scan(self) -> Look:
        """Runs in a thread."""
        if is_git_busy(self._path.resolve(), time.time()):
            return Look(self._previous, settled=False, pause=GIT_PAUSE)
        self._settling.begin(first=self._previous is None)
        revision = scan(self._path, self._previous, self._settling.take, self._keys)
        _check_mounted(self._path, self._previous, revision)
        pause = self._settling.pause
        if self._settling.incomplete:
            return Look(None, settled=False, pause=pause or GIT_PAUSE)
        return Look(revision, settled=pause is None, pause=RESCAN_SECONDS if pause is None else pause)

    def _judge_fault(self, fault: HoldfastError) -> Look:
        """A directory that is being replaced is absent for a moment: only then is that a fault."""
        now = time.monotonic()
        self._returned = None
        if self._absent_since is None:
            self._absent_since = now
        replaced = fault.reason != NOT_MOUNTED and self._previous is not None
        if replaced and now - self._absent_since < GRACE_SECONDS:
            return Look(None, settled=False, pause=GRACE_SECONDS / 8)
        return Look(None, settled=True, pause=ABSENT_SECONDS, fault=fault)

    def _judge_return(self, look: Look) -> Look:
        """A directory that was absent is believed when it has not changed for a moment: it may be copied just now."""
        if self._absent_since is None:
            return look
        now = time.monotonic()
        if now - self._absent_since >= GRACE_SECONDS:
            found = look.revision.id if look.revision is not None else ""
            if self._returned is None or self._returned[0] != found:
                self._returned = (found, now)
            if not look.settled or now - self._returned[1] < STEADY_SECONDS:
                return Look(None, settled=False, pause=STEADY_SECONDS / 4)
        self._absent_since = self._returned = None
        return look


def _check_mounted(path: Path, before: Revision | None, now: Revision) -> None:
    """An empty directory on another file system than before is one whose file system is not mounted: it does not say
    that nothing is wanted."""
    if before is not None and before.apps and not now.apps and before.memory.device != now.memory.device:
        raise Waiting(
            f"the state directory {path} is empty, and on another file system than before",
            retry_after=RETRY_SECONDS,
            reason=NOT_MOUNTED,
            hint="mount it again; if it is meant to be empty, restart the agent",
        )


def release(request: asyncio.Future[None]) -> None:
    """Let go of whoever waits; he may have gone already."""
    if not request.done():
        request.set_result(None)

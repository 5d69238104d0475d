"""Being woken when something changes in or around the state directory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from watchfiles import Change, awatch

from agent.source.tree import Surroundings

QUIET_MS = 25
LONGEST_MS = 50
_TIMEOUT_MS = 60_000


class Watch:
    """Calls ``changed`` once changes have been followed by a moment of quiet. Lives on the loop.

    Directories are watched one by one, not recursively: that way a link to the root directory costs nothing.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._surroundings: Surroundings | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def works(self) -> bool:
        """Whether changes are noticed; if not, somebody has to look from time to time."""
        running = self._task is not None and not self._task.done()
        return running and self._surroundings is not None and self._surroundings.complete

    async def arm(self, surroundings: Surroundings) -> bool:
        """Watch these from now on; True when there was something to do, so that a change may have been missed."""
        same = self._surroundings is not None and surroundings == self._surroundings
        if same and self._task is not None and not self._task.done():
            return False
        await self.close()
        self._surroundings = surroundings
        self._task = asyncio.get_running_loop().create_task(self._run(surroundings), name="watch of the desired state")
        await asyncio.sleep(0)
        return not self._task.done()

    async def close(self) -> None:
        """Stop watching."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, surroundings: Surroundings) -> None:
        """The watch is in place after the first step of this task. It ends when the kernel grants no (more) watches."""

        def is_of_concern(_: Change, path: str) -> bool:
            return surroundings.concerns(path)

        with contextlib.suppress(OSError, RuntimeError):
            async for _ in awatch(
                *sorted(surroundings.directories),
                watch_filter=is_of_concern,
                debounce=LONGEST_MS,
                step=QUIET_MS,
                rust_timeout=_TIMEOUT_MS,
                recursive=False,
                ignore_permission_denied=True,
            ):
                self._changed()

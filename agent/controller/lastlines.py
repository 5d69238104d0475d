"""What a container that failed wrote in the end, told before it is removed: a deploy that is taken back removes it."""

from __future__ import annotations

import asyncio

from agent.controller.parts import Shared
from agent.engine.model import ContainerRecord, ExitStatus

LOG_LINES = 5


class LastLines:
    """Lives on the loop. Only the removal of the container waits until the lines have been read."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._telling: set[asyncio.Task[None]] = set()

    def tell(self, record: ContainerRecord, end: ExitStatus) -> None:
        """Record the last lines of an owned container unless it ended well."""
        if end.code == 0:
            return
        task = asyncio.get_running_loop().create_task(self._record(record))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _record(self, record: ContainerRecord) -> None:
        owner = record.config.owner
        said = await self._shared.speech.read_end(record, LOG_LINES)
        if owner is None or not said:
            return
        self._shared.events.record(
            "container",
            app=owner.app,
            service=owner.service,
            container=record.name,
            reason="LastLines",
            message=f"the last lines of {record.name} ({record.id[:12]}):\n{said}",
            id=record.id,
        )

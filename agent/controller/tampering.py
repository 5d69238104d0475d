"""Looking after what only limits say: cgroups that others have changed, or taken from under a container."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agent.controller.parts import Shared
from agent.engine.model import ContainerRecord, ContainerState, Tampering
from agent.errors import HoldfastError
from agent.telemetry.logging import get_logger

CHECK_SECONDS = 30.0


class TamperWatch:
    """Lives on the loop; looks at every owned running container with limits twice a minute. ``claim`` is called with
    app and container id of one that is about to be stopped."""

    def __init__(self, shared: Shared, claim: Callable[[str, str], None]) -> None:
        self._engine, self._inventory, self._gate = shared.engine, shared.inventory, shared.gate
        self._teller, self._metrics = shared.events, shared.metrics
        self._claim = claim
        self._log = get_logger("controller")

    async def run(self, seconds: float = CHECK_SECONDS) -> None:
        """Look, and look again after ``seconds``, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            await self.look()

    async def look(self) -> None:
        """Put right what can be, and have replaced what cannot; both are told."""
        self._inventory.refresh()
        for record in self._inventory.all():
            resources = record.config.resources
            limited = (resources.cpus, resources.memory, resources.pids) != (None, None, None)
            if record.config.owner is None or record.state is not ContainerState.RUNNING or not limited:
                continue
            try:
                found = await self._gate.run(self._engine.containers.put_right, record.id)
                if found is not None:
                    await self._tell(record, found)
            except (HoldfastError, OSError):  # it has ended meanwhile, or another look will show more
                continue
            except Exception as error:  # a fault of ours, which must not end the look at all others
                self._log.warning("limits could not be looked at", container=record.name, exc_info=error)

    async def _tell(self, record: ContainerRecord, found: Tampering) -> None:
        owner = record.config.owner
        assert owner is not None
        self._metrics.drift_found(owner.app)
        done = "it is replaced" if found.lost else "that was put right"
        self._teller.record(
            "container",
            app=owner.app,
            service=owner.service,
            container=record.name,
            reason="DriftCgroupLost" if found.lost else "DriftLimitsChanged",
            message=f"{record.name} ({record.id[:12]}): {found.text}; {done}",
            id=record.id,
        )
        if found.lost:
            self._claim(owner.app, record.id)
            await self._gate.run(self._engine.containers.stop, record.id)
        self._metrics.drift_corrected(owner.app)

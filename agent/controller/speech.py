"""What containers say, for those who keep it and show it: without what was decrypted for them.

Whoever may read a container's log sees all of it there. Events, conditions and notices go to others too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from agent.builder.run.redaction import Redaction
from agent.controller.gate import Gate
from agent.controller.port import EnginePort
from agent.engine.model import ContainerRecord
from agent.errors import HoldfastError

_PATIENCE_SECONDS = 5.0


class Speech:
    """Lives on the loop. ``specs``: what containers were made from, as JSON text by spec digest."""

    def __init__(self, engine: EnginePort, gate: Gate, specs: Mapping[str, str]) -> None:
        self._engine = engine
        self._gate = gate
        self._specs = specs
        self._reading: dict[str, set[asyncio.Future[str]]] = {}

    async def read_end(self, record: ContainerRecord, lines: int) -> str:
        """The last lines that a container wrote; nothing when they cannot be read."""
        redaction = self._find(record)  # its spec may be forgotten while the lines are read
        try:
            said = await self._read(record.id, lines)
        except (HoldfastError, OSError, RuntimeError):  # it is gone, or the agent is ending
            return ""
        return redaction.apply(said)

    async def _read(self, container_id: str, lines: int) -> str:
        reading = asyncio.ensure_future(self._gate.run(self._engine.containers.read_end, container_id, lines))
        found = self._reading.setdefault(container_id, set())
        found.add(reading)
        try:
            return await reading
        finally:
            found.discard(reading)
            if not found:
                self._reading.pop(container_id, None)

    async def finish(self, container_id: str) -> None:
        """Before a container is removed: wait, though not for long, until what is being read of it has been read."""
        if reading := self._reading.get(container_id):
            await asyncio.wait(reading, timeout=_PATIENCE_SECONDS)

    def hide(self, record: ContainerRecord, said: str) -> str:
        """What a container, or a check of it, said."""
        return self._find(record).apply(said) if said else said

    def _find(self, record: ContainerRecord) -> Redaction:
        owner, found = record.config.owner, Redaction()
        text = self._specs.get(owner.spec_digest) if owner is not None else None
        spec = json.loads(text) if text is not None else {}
        for name in spec.get("hidden", ()):
            found.add(spec.get("environment", {}).get(name, "").encode())
        return found

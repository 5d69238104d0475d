"""Keeps the balancer map and the service names as the apps' endpoints say; one change at a time, newest wins."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from agent.controller.alarm import Alarm
from agent.controller.gate import Gate
from agent.controller.outcome import compute_failure
from agent.controller.port import NetworksPort
from agent.controller.telling.telling import Teller
from agent.controller.traffic.endpoints import AppEndpoints, Claim, compute_names, compute_published
from agent.engine.model import PublishedPort
from agent.errors import NotFound

SETTLE_SECONDS = 1.0
REFUSED_SECONDS = 5.0
UNMENDED_SECONDS = 60.0


class Publisher:
    """Lives on the loop. ``conflicts`` says, by app, which of its ports another app, or another program, holds."""

    def __init__(
        self,
        networks: NetworksPort,
        gate: Gate,
        events: Teller,
        changed: Callable[[str], None],
        settled: Callable[[], None],
    ) -> None:
        self._networks = networks
        self._gate = gate
        self._events = events
        self._changed = changed
        self._settle_listener = settled
        self._apps: dict[str, AppEndpoints] = {}
        self._held: dict[Claim, str] = {}
        self._published: tuple[PublishedPort, ...] | None = None
        self._refused: Mapping[Claim, str] = {}
        self._names: dict[str, dict[str, tuple[str, ...]]] = {}
        self._dirty = asyncio.Event()
        self._again = Alarm(self._dirty.set)
        self._settled = asyncio.Event()
        self._settled.set()
        self.conflicts: Mapping[str, str] = {}
        self.failure = ""

    def update(self, app: str, endpoints: AppEndpoints | None) -> None:
        """Say what an app wants published now; None: it is gone."""
        if self._apps.get(app) == endpoints and self._published is not None:
            return
        if endpoints is None:
            self._apps.pop(app, None)
        else:
            self._apps[app] = endpoints
        self._settled.clear()
        self._dirty.set()

    async def settle(self) -> None:
        """Wait, but not for long, until everything said so far is in force."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._settled.wait()

    @property
    def settled(self) -> bool:
        """Whether everything said so far is in force."""
        return self._settled.is_set()

    @property
    def fault(self) -> str:
        """Why that is not so; empty when it is."""
        return self.failure or ("" if self.settled else "published ports and names are being brought up to date")

    def claims_of(self, app: str) -> list[Claim]:
        """The ports of the host that an app has."""
        return [claim for claim, holder in self._held.items() if holder == app]

    def reset(self) -> None:
        """Forget what is in force: the next update is carried out whole."""
        self._published = None
        self._refused = {}
        self._names = {}
        self._apps.clear()

    async def run(self) -> None:
        """Carry changes out until cancelled."""
        attempt = 0
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._apply()
                attempt, self.failure = 0, ""
            except Exception as error:
                attempt += 1
                failure = compute_failure(error, attempt)
                self.failure = failure.message
                self._events.fail("network", failure, error, what="publishing ports and names")
                self._again.set(failure.retry_after or UNMENDED_SECONDS)
            if not self._dirty.is_set() and not self.failure:
                self._settled.set()
                self._settle_listener()

    async def _apply(self) -> None:
        ports, self._held, conflicts = compute_published(self._apps, self._held)
        names = compute_names(self._apps.values())
        if self._refused or (ports != self._published and (ports or self._published)):
            self._refused = await self._gate.run(self._networks.publish, ports)
        self._published = ports
        self._report({**self._explain_refused(), **conflicts})
        if self._refused:
            self._again.set(REFUSED_SECONDS)
        for network in sorted({*names, *self._names}):
            wanted = names.get(network, {})
            if wanted != self._names.get(network):
                await self._set_names(network, wanted)
            if network not in names:
                del self._names[network]

    async def _set_names(self, network: str, wanted: dict[str, tuple[str, ...]]) -> None:
        """Replace a network's names; one that is gone has none, which is all that is wanted of it."""
        try:
            await self._gate.run(self._networks.set_service_names, network, wanted)
        except NotFound:
            if wanted:
                raise
        self._names[network] = wanted

    def _explain_refused(self) -> dict[str, str]:
        """By app, why one of its ports is not published; it is tried again."""
        return {self._held[claim]: why for claim, why in self._refused.items() if claim in self._held}

    def _report(self, conflicts: Mapping[str, str]) -> None:
        before, self.conflicts = self.conflicts, conflicts
        for app in {*before, *conflicts}:
            if before.get(app) != conflicts.get(app):
                self._changed(app)

"""The loop: from revisions and engine events to the workers of the apps, and back to whoever asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from agent.controller.appworkers import AppWorkers
from agent.controller.deploy.approvals import Approvals
from agent.controller.deploycommands import DeployCommands
from agent.controller.enginewatch import EngineWatch
from agent.controller.explaining import Explainer
from agent.controller.gate import Gate
from agent.controller.health.checks import Checks
from agent.controller.health.commandcheck import CommandChecks
from agent.controller.inventory import Inventory
from agent.controller.journal import Journal
from agent.controller.lastgood import LastGood
from agent.controller.outcome import compute_failure
from agent.controller.parts import HostNames, NetworkOwners, Shared, SpecDocuments
from agent.controller.port import EnginePort, EventsPort, MetricsPort, RecordsPort, RevisionPort, SourcePort
from agent.controller.queries import render_containers, render_plans, render_status
from agent.controller.speech import Speech
from agent.controller.suspension import Suspension
from agent.controller.tampering import TamperWatch
from agent.controller.targets import compute_targets
from agent.controller.telling.callers import Callers
from agent.controller.telling.telling import Teller
from agent.controller.traffic.publisher import Publisher
from agent.controller.worker import AppWorker
from agent.spec.model import NotifyTarget

SOURCE_RETRY = 5.0


class Controller:
    """Keeps the host as its source says. Make it and call everything but the constructor on one event loop."""

    def __init__(
        self,
        engine: EnginePort,
        source: SourcePort,
        events: EventsPort,
        metrics: MetricsPort,
        records: RecordsPort,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source, self._records, self._clock = source, records, clock
        gate, teller = Gate(), Teller(events)
        journal = Journal(records, gate, events.flush)
        self.callers = Callers()
        self._report_targets: Callable[[Mapping[str, tuple[NotifyTarget, ...]]], None] = lambda _targets: None
        self._known = LastGood(records, journal)
        self._revision: str | None = None
        self._targets_known = False
        self._source_fault = ""
        self._change = asyncio.Event()
        specs = SpecDocuments(records, journal)
        speech = Speech(engine, gate, specs.texts)
        commands = CommandChecks(engine, gate)
        self._shared = Shared(
            engine=engine,
            gate=gate,
            journal=journal,
            events=teller,
            metrics=metrics,
            clock=clock,
            inventory=Inventory(engine.containers),
            health=Checks(commands, speech, journal, teller, clock, self._poke),
            publisher=Publisher(engine.networks, gate, teller, self._poke, self._on_change),
            specs=specs,
            speech=speech,
            owners=NetworkOwners(records, journal),
            names=HostNames(engine),
            changed=self._on_change,
        )
        self._apps = AppWorkers(self._shared, records)
        self._workers: Mapping[str, AppWorker] = self._apps.workers
        self._suspension = Suspension(self._shared, records, self._workers)
        self._watch = EngineWatch(self._shared, self._workers, self.callers)
        self.deploys = DeployCommands(self._workers, self._shared, Approvals(records, journal), self.wait_change)

    # the loop

    async def run(self) -> None:
        """Work until cancelled. Containers go on; whatever is under way in a thread ends by itself."""
        loop = asyncio.get_running_loop()
        self._shared.health.load(self._records)
        self._suspension.load()
        self._watch.begin()
        publishing = loop.create_task(self._shared.publisher.run(), name="publisher")
        watching = loop.create_task(TamperWatch(self._shared, self._claim).run(), name="tampering")
        try:
            await self._follow()
        finally:
            publishing.cancel()
            watching.cancel()
            self._shared.health.close()
            self._apps.close()
            await self._shared.gate.close()
            self._shared.journal.close()

    async def _follow(self) -> None:
        """Take one revision after the other; a source that cannot be read changes nothing."""
        attempt = 0
        while True:
            try:
                async for revision in self._source.revisions():
                    attempt, self._source_fault = 0, ""
                    self._accept(revision)
                fault: Exception = RuntimeError("the source of desired state ended")
            except Exception as error:
                fault = error
            attempt += 1
            failure = compute_failure(fault, attempt)
            self._source_fault = f"{failure.reason}: {failure.message}; nothing is changed until it can be read again"
            self._shared.events.fail(
                "agent", failure, fault, what="the desired state cannot be read, nothing is changed"
            )
            self._on_change()
            await asyncio.sleep(failure.retry_after or SOURCE_RETRY)

    def _accept(self, revision: RevisionPort) -> None:
        """Give every app its target; apps that are not in the revision any more are removed."""
        first = self._revision is None
        self._suspension.note_revision(revision.id)
        self._revision = revision.id
        self._shared.inventory.refresh()
        targets = compute_targets(revision, self._known)
        for name, target in targets.items():
            worker = self._apps.ensure(name)
            worker.want(target.desired, invalid=target.invalid)
            worker.warn(target.warnings)
        self._apps.remove(self._leftovers(first) - targets.keys())
        self._targets_known = True
        self._report_targets({name: w.desired.app.notify for name, w in self._workers.items() if w.desired is not None})
        self._forget_specs()
        self._apps.poke()
        self._on_change()
        if first:
            self._suspension.finish()

    def _leftovers(self, first: bool) -> set[str]:
        """The apps that there are; at first also those of which only something on the host or on disk is left."""
        shared = self._shared
        known = {*shared.inventory.apps, *shared.owners.apps, *self._apps.documented} if first else set()
        return {*self._workers, *known}

    def _forget_specs(self) -> None:
        """Forget the specs of containers that are gone."""
        owners = (record.config.owner for record in self._shared.inventory.all())
        used = {owner.spec_digest for owner in owners if owner is not None}
        self._shared.specs.keep(used.union(*(worker.starting for worker in self._workers.values())))

    # what is told to the loop

    def _claim(self, app: str, container_id: str) -> None:
        """The end of a container is our own doing, although no plan asks for it."""
        worker = self._workers.get(app)
        if worker is not None:
            worker.drift.claim(container_id)

    def _poke(self, app: str) -> None:
        worker = self._workers.get(app)
        if worker is not None:
            worker.poke()

    def _on_change(self) -> None:
        """A worker has reconciled: let go of apps of which nothing is left, wake whoever waits."""
        self._apps.let_go()
        self._change.set()
        self._change = asyncio.Event()

    # commands

    async def sync(self) -> None:
        """Read the desired state and reconcile every app now, trying again whatever failed; returns after that pass."""
        await self._suspension.end()
        await self._source.refresh()
        self._shared.names.forget()
        before = {name: worker.passes for name, worker in self._workers.items()}
        for worker in [*self._workers.values()]:
            worker.forgive()
        while any(name in self._workers and self._workers[name].passes == passes for name, passes in before.items()):
            await self._change.wait()

    async def look(self) -> None:
        """Read the desired state now, so that what is asked next is answered of it."""
        await self._source.refresh()

    async def down(self) -> None:
        """Stop and remove every container and network, keep volumes and images, and stay down: also after a restart,
        until the desired state changes or ``sync`` is called. What changes before it has ended is taken down too."""
        await self._suspension.begin()

    async def wait_converged(self, seconds: float) -> bool:
        """True as soon as the host is as the source says at this moment; False when ``seconds`` have gone by first,
        or nothing more will be done before somebody changes files or gives a command."""
        return await self._wait(lambda: self.converged or self._stuck, seconds) and self.converged

    async def wait_in_place(self, seconds: float) -> bool:
        """True as soon as all is in place, though new revisions may still be watched."""
        return await self._wait(lambda: self.in_place, seconds)

    async def _wait(self, reached: Callable[[], bool], seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._source.refresh()
                while not reached():
                    await self._change.wait()
        except TimeoutError:
            return False
        return True

    async def wait_change(self) -> None:
        """Return when any app has been reconciled, or the source's fault has changed, after this call."""
        await self._change.wait()

    def report_targets(self, callback: Callable[[Mapping[str, tuple[NotifyTarget, ...]]], None]) -> None:
        """Call back, with each revision, with whom the apps in force want to be told of them; it must not block."""
        self._report_targets = callback

    # questions

    @property
    def synced(self) -> bool:
        """Whether every app of the first revision has been reconciled once."""
        return self._revision is not None and all(worker.passes for worker in self._workers.values())

    @property
    def converged(self) -> bool:
        """Whether everything is as desired, what is desired can be read, nothing is under way or held down."""
        return self._settled and all(worker.converged for worker in self._workers.values())

    @property
    def in_place(self) -> bool:
        """The same, but for revisions that are in place and still watched."""
        return self._settled and all(worker.in_place for worker in self._workers.values())

    @property
    def _settled(self) -> bool:
        published = self._shared.publisher.settled and not self._shared.suspended
        return self.synced and published and not self._source_fault and not self._watch.names_fault

    @property
    def _stuck(self) -> bool:
        workers = self._workers.values()
        known = self.synced and not self._source_fault
        return known and all(worker.converged or worker.stuck for worker in workers) and any(w.stuck for w in workers)

    def needed_images(self) -> frozenset[str] | None:
        """References and ids of the images of all apps in force; None until the desired state was read. From any
        thread."""
        if not self._targets_known:
            return None
        workers = tuple(self._workers.values())
        return frozenset().union(*(worker.needed_images() for worker in workers))

    def status(self) -> dict[str, Any]:
        """The apps, as ``render_status`` has them; ``source``, ``network`` and ``names`` say what is wrong with those,
        ``suspended`` whether ``down`` is in force."""
        return {
            **render_status([self._workers[name] for name in sorted(self._workers)], self._shared.health),
            "revision": self._revision or "",
            "suspended": self._shared.suspended,
            "source": self._source_fault,
            "network": self._shared.publisher.fault,
            "names": self._watch.names_fault,
        }

    def containers(self) -> list[dict[str, Any]]:
        """The objects of ``ps --json``."""
        return render_containers(self._shared.inventory, self._shared.health, self._workers)

    def why(self, target: str) -> list[dict[str, Any]]:
        """The story of a container, service or app, as steps. Raises NotFound, and Conflict for an unclear name."""
        explainer = Explainer(self._shared.inventory, self._workers)
        return [step.as_dict() for step in explainer.explain(target, self._shared.events.recent(), self._clock())]

    def pending_plan(self) -> dict[str, Any]:
        """What would be done now, and why: ``{"apps": [{name, actions, holds, next_check, warnings, hash}],
        "hash", "source", "network", "names"}``; the last three say what is wrong with those."""
        now = self._clock()
        self._shared.inventory.refresh()
        plans = render_plans((self._workers[name] for name in sorted(self._workers)), now)
        return {
            **self.deploys.show_plans(plans),
            "source": self._source_fault,
            "network": self._shared.publisher.failure,
            "names": self._watch.names_fault,
        }

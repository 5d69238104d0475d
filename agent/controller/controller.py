"""The loop: from revisions and engine events to the workers of the apps, and back to whoever asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from agent.controller.admission import Admission
from agent.controller.callers import Callers
from agent.controller.checks import Checks
from agent.controller.deploycommands import DeployCommands
from agent.controller.deploys import KIND as DEPLOY_KIND
from agent.controller.deploys import AppDeploys
from agent.controller.explaining import Explainer
from agent.controller.gate import Gate
from agent.controller.happenings import Happenings
from agent.controller.images import KIND as IMAGE_KIND
from agent.controller.images import AppImages, load_image_documents
from agent.controller.inventory import Inventory
from agent.controller.journal import Journal
from agent.controller.lastgood import LastGood
from agent.controller.outcome import compute_failure
from agent.controller.parts import HostNames, NetworkOwners, Shared, SpecDocuments
from agent.controller.port import EnginePort, EventsPort, MetricsPort, RecordsPort, RevisionPort, SourcePort
from agent.controller.publisher import Publisher
from agent.controller.queries import render_containers, render_plans, render_status
from agent.controller.revisions import KIND as REVISION_KIND
from agent.controller.revisions import Revisions, load_revision_documents
from agent.controller.slots import load_slots
from agent.controller.tampering import TamperWatch
from agent.controller.targets import compute_targets
from agent.controller.telling import Teller
from agent.controller.worker import AppWorker
from agent.engine.model import ContainerEvent
from agent.errors import HoldfastError
from agent.spec.model import NotifyTarget

AGENT_KIND = "agent"
SUSPENDED_KEY = "suspended"
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
        self._engine, self._source, self._records, self._clock = engine, source, records, clock
        self._gate = Gate()
        journal = Journal(records, self._gate, events.flush)
        teller = Teller(events)
        self.callers = Callers()
        self._report_targets: Callable[[Mapping[str, tuple[NotifyTarget, ...]]], None] = lambda _targets: None
        self._happenings = Happenings(teller, self.callers)
        self._known = LastGood(records, journal)
        self._documents = load_image_documents(records)
        self._slots = load_slots(records)
        self._deploys = records.all(DEPLOY_KIND)
        self._histories = load_revision_documents(records.all(REVISION_KIND))
        self._workers: dict[str, AppWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[str] = set()
        self._revision: str | None = None
        self._down_at = ""
        self._targets_known = False
        self._source_fault = self._names_fault = ""
        self._change = asyncio.Event()
        self._taking_down = asyncio.Lock()
        self._rest: asyncio.Task[None] | None = None
        self._shared = Shared(
            engine=engine,
            gate=self._gate,
            journal=journal,
            events=teller,
            metrics=metrics,
            clock=clock,
            inventory=Inventory(engine.containers),
            health=Checks(engine, self._gate, journal, teller, clock, self._poke),
            publisher=Publisher(engine.networks, self._gate, teller, self._poke, self._on_change),
            specs=SpecDocuments(records, journal),
            owners=NetworkOwners(records, journal),
            names=HostNames(engine),
            changed=self._on_change,
        )
        self._admission = Admission(self._workers, engine.capacity, self._shared.publisher.claims_of)
        self.deploys = DeployCommands(self._workers, self._shared, self.wait_change)

    # the loop

    async def run(self) -> None:
        """Work until cancelled. Containers go on; whatever is under way in a thread ends by itself."""
        loop = asyncio.get_running_loop()
        self._shared.health.load(self._records)
        document = self._records.get(AGENT_KIND, SUSPENDED_KEY)
        self._shared.suspended |= document is not None
        self._down_at = self._down_at or str((document or {}).get("revision", ""))
        self._engine.subscribe(lambda event: _hand_over(loop, self._on_event, event))
        self._engine.networks.watch_names(lambda: _hand_over(loop, self._on_names))
        self._on_names()
        self._happenings.catch_up(self._engine.containers.list())
        publishing = loop.create_task(self._shared.publisher.run(), name="publisher")
        watching = loop.create_task(TamperWatch(self._shared, self._claim).run(), name="tampering")
        try:
            await self._follow()
        finally:
            publishing.cancel()
            watching.cancel()
            self._shared.health.close()
            for task in self._tasks.values():
                task.cancel()
            await self._gate.close()
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
        if self._shared.suspended:
            self._resume_after(revision.id)
        self._revision = revision.id
        self._shared.inventory.refresh()
        targets = compute_targets(revision, self._known)
        for name, target in targets.items():
            worker = self._worker(name)
            worker.want(target.desired, invalid=target.invalid)
            worker.warn(target.warnings)
        for name in self._leftovers(first) - targets.keys():
            self._leaving.add(name)
            self._worker(name).want(None, removed=True)
        self._targets_known = True
        self._report_targets({name: w.desired.app.notify for name, w in self._workers.items() if w.desired is not None})
        self._forget_specs()
        for worker in [*self._workers.values()]:
            worker.poke()
        self._on_change()
        if first and self._shared.suspended and self._shared.inventory.all() and not self._taking_down.locked():
            self._rest = asyncio.get_running_loop().create_task(self._finish_down(), name="down")

    async def _finish_down(self) -> None:
        """See through what an agent has begun that was killed in the middle of ``down``."""
        try:
            await self.down()
        except HoldfastError as error:
            self._shared.events.fail("agent", compute_failure(error, 1), error, what="down that was interrupted")

    def _leftovers(self, first: bool) -> set[str]:
        return {*self._workers, *([*self._shared.inventory.apps, *self._shared.owners.apps] if first else ())}

    def _forget_specs(self) -> None:
        """Forget the specs of containers that are gone."""
        owners = (record.config.owner for record in self._shared.inventory.all())
        used = {owner.spec_digest for owner in owners if owner is not None}
        self._shared.specs.keep(used.union(*(worker.starting for worker in self._workers.values())))

    def _worker(self, name: str) -> AppWorker:
        worker = self._workers.get(name)
        if worker is None:
            images = AppImages(name, self._engine.images, self._documents.pop(name, {}), self._clock)
            revisions = Revisions(name, self._shared.journal, self._histories.pop(name, {}))
            document = self._deploys.pop(name, {})
            deploys = AppDeploys(name, revisions, self._shared.journal, self._shared.events, document)
            self._admission.attach(name, deploys)
            worker = AppWorker(name, self._shared, images, deploys, self._slots.pop(name, {}))
            self._workers[name] = worker
            self._tasks[name] = asyncio.get_running_loop().create_task(worker.run(), name=f"app {name}")
        return worker

    # what happens

    def _on_event(self, event: ContainerEvent) -> None:
        """An engine event, on the loop: wake the app it belongs to; an app nobody wants is not our business yet."""
        record = self._shared.inventory.get(event.container)
        self._shared.inventory.refresh()
        record = self._shared.inventory.get(event.container) or record
        self._shared.health.keep(self._shared.inventory.get)
        owner = record.config.owner if record is not None else None
        if record is None or owner is None:
            return
        worker = self._workers.get(owner.app)
        asked = worker is None or worker.removed or self._shared.suspended or worker.drift.is_ours(record.id)
        self._happenings.note(event, record, asked=asked)
        if event.kind == "oom":
            self._shared.metrics.oom_killed(owner.app, owner.service)
        self._poke(owner.app)

    def _on_names(self) -> None:
        """The name server came or went: every app's condition may say so."""
        before, self._names_fault = self._names_fault, self._engine.networks.names_fault
        if before == self._names_fault:
            return
        reason = "NamesUnavailable" if self._names_fault else "NamesAnswered"
        message = self._names_fault or "names are answered again"
        self._shared.events.record("network", reason=reason, message=message)
        for worker in [*self._workers.values()]:
            worker.poke()
        self._on_change()

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
        for name in tuple(self._leaving):
            worker = self._workers.get(name)
            if worker is None or not worker.removed:
                self._leaving.discard(name)
            elif worker.gone:
                self._forget(worker)
        self._change.set()
        self._change = asyncio.Event()

    def _forget(self, worker: AppWorker) -> None:
        del self._workers[worker.name]
        self._tasks.pop(worker.name).cancel()
        self._shared.publisher.update(worker.name, None)
        for other in self._workers.values():
            other.poke()
        worker.deploys.forget()
        for key in worker.images.document_keys():
            self._shared.journal.put(IMAGE_KIND, key, None)

    # commands

    async def sync(self) -> None:
        """Read the desired state and reconcile every app now, trying again whatever failed; returns after that pass."""
        async with self._taking_down:
            if self._shared.suspended:
                self._resume()
                await self._shared.journal.flush()
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
        async with self._taking_down:
            await self._take_down()

    async def _take_down(self) -> None:
        self._shared.suspended, self._down_at = True, self._revision or ""
        await self._gate.run(self._records.put, AGENT_KIND, SUSPENDED_KEY, {"revision": self._down_at})
        for worker in [*self._workers.values()]:
            await worker.quiesce()
        await self._gate.run(self._engine.down)
        self._shared.names.forget()
        self._shared.publisher.reset()
        self._shared.inventory.refresh()
        self._shared.health.keep(self._shared.inventory.get)
        for worker in [*self._workers.values()]:
            worker.restart_history()
            worker.poke()
        if self._shared.suspended:
            self._note_suspension(self._down_at)
        await self._shared.journal.flush()

    def _resume_after(self, revision: str) -> None:
        """A revision ends the suspension, unless it is the one that was taken down, or the first to be read at all."""
        if not self._down_at or self._taking_down.locked():
            self._note_suspension(revision)
        elif self._down_at != revision:
            self._resume()

    def _note_suspension(self, revision: str) -> None:
        self._down_at = revision
        self._shared.journal.put(AGENT_KIND, SUSPENDED_KEY, {"revision": revision})

    def _resume(self) -> None:
        self._shared.suspended = False
        self._shared.journal.put(AGENT_KIND, SUSPENDED_KEY, None)
        for worker in self._workers.values():
            worker.poke()

    async def wait_converged(self, seconds: float) -> bool:
        """True as soon as the host is as the source says at this moment; False when ``seconds`` have gone by first."""
        try:
            async with asyncio.timeout(seconds):
                await self._source.refresh()
                while not self.converged:
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
        settled = self._shared.publisher.settled and not self._shared.suspended
        faults = self._source_fault or self._names_fault
        return self.synced and settled and not faults and all(worker.converged for worker in self._workers.values())

    def needed_images(self) -> frozenset[str] | None:
        """References and ids of the images of all apps in force; None until the desired state was read. From any
        thread."""
        if not self._targets_known:
            return None
        workers = tuple(self._workers.values())
        return frozenset().union(*(worker.needed_images() for worker in workers))

    def status(self) -> dict[str, Any]:
        """``{"apps": [{name, revision, conditions, services}], ...}``; ``source``, ``network`` and ``names`` say what
        is wrong with those, ``suspended`` whether ``down`` is in force."""
        return {
            **render_status(self._workers[name] for name in sorted(self._workers)),
            "revision": self._revision or "",
            "suspended": self._shared.suspended,
            "source": self._source_fault,
            "network": self._shared.publisher.failure,
            "names": self._names_fault,
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
            "names": self._names_fault,
        }


def _hand_over(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: object) -> None:
    """From an engine's thread to the loop; a loop that has ended wants no events."""
    try:
        loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:
        if not loop.is_closed():
            raise

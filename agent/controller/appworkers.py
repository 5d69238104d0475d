"""The workers of all apps: each is made with what the database knows of its app, and let go when nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from agent.controller.deploy.admission import Admission, Census
from agent.controller.deploy.deploys import KIND as DEPLOY_KIND
from agent.controller.deploy.deploys import AppDeploys
from agent.controller.deploy.revisions import KIND as REVISION_KIND
from agent.controller.deploy.revisions import Revisions, load_revision_documents
from agent.controller.images import KIND as IMAGE_KIND
from agent.controller.images import AppImages, load_image_documents
from agent.controller.parts import Shared
from agent.controller.port import RecordsPort
from agent.controller.slots import load_slots
from agent.controller.worker import AppWorker
from agent.telemetry.events import APP_GONE


class AppWorkers:
    """Lives on the loop; each worker is a task of it. ``workers`` are those there are, by app, always as of now."""

    def __init__(self, shared: Shared, records: RecordsPort) -> None:
        self._shared = shared
        self._documents = load_image_documents(records)
        self._slots = load_slots(records)
        self._deploys = records.all(DEPLOY_KIND)
        self._histories = load_revision_documents(records.all(REVISION_KIND))
        self.workers: dict[str, AppWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[str] = set()
        census = Census(shared.publisher.claims_of, shared.inventory.count_alive)
        self._admission = Admission(self.workers, shared.engine.capacity, census)

    @property
    def documented(self) -> set[str]:
        """The apps of which the database knows, and that have no worker yet."""
        return {*self._deploys, *self._histories}

    def ensure(self, app: str) -> AppWorker:
        """The worker of an app, made and begun when there is none."""
        worker = self.workers.get(app)
        if worker is None:
            shared = self._shared
            images = AppImages(app, shared.engine.images, self._documents.pop(app, {}), shared.clock)
            revisions = Revisions(app, shared.journal, self._histories.pop(app, {}))
            deploys = AppDeploys(app, revisions, shared.journal, shared.events, self._deploys.pop(app, {}))
            self._admission.attach(app, deploys)
            worker = AppWorker(app, shared, images, deploys, self._slots.pop(app, {}))
            self.workers[app] = worker
            self._tasks[app] = asyncio.get_running_loop().create_task(worker.run(), name=f"app {app}")
        return worker

    def poke(self) -> None:
        """Something that every app depends on may have changed: all reconcile soon."""
        for worker in self.workers.values():
            worker.poke()

    def remove(self, apps: Iterable[str]) -> None:
        """Have the workers of apps that are not wanted any more take all of them away."""
        for app in apps:
            self._leaving.add(app)
            self.ensure(app).want(None, removed=True)

    def let_go(self) -> None:
        """Forget the removed apps of which nothing is left."""
        for app in tuple(self._leaving):
            worker = self.workers.get(app)
            if worker is None or not worker.removed:
                self._leaving.discard(app)
            elif worker.gone:
                self._forget(worker)

    def _forget(self, worker: AppWorker) -> None:
        del self.workers[worker.name]
        self._tasks.pop(worker.name).cancel()
        self._shared.publisher.update(worker.name, None)
        self.poke()
        worker.deploys.forget()
        self._shared.events.record("app", app=worker.name, reason=APP_GONE, message=f"app {worker.name} is gone")
        for key in worker.images.forget():
            self._shared.journal.put(IMAGE_KIND, key, None)

    def close(self) -> None:
        """End every worker; what is under way in a thread ends by itself."""
        for task in self._tasks.values():
            task.cancel()

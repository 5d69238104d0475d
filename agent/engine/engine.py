"""One host: the door of this package."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from agent.engine.archives import Archives
from agent.engine.buildcache import BuildCache
from agent.engine.capacity import Capacity
from agent.engine.collector import ImageCollection
from agent.engine.containers import Containers
from agent.engine.entering import ExecResolver
from agent.engine.execs import ExecHandle, ExecOptions, Execs
from agent.engine.images import Images
from agent.engine.model import ContainerEvent
from agent.engine.networks import Networks
from agent.engine.parts import Parts
from agent.engine.usage import Usage, UsageReader
from agent.engine.watermarks import DiskWatch
from agent.errors import Conflict, HoldfastError
from agent.runtime.protocol import KeeperEvent
from agent.telemetry.logging import get_logger
from agent.volume.store import VolumeStore


class Engine:
    """Everything that can be done to one host. Thread-safe and blocking; ``start`` before anything else.

    ``on_keeper_event`` has to be given every event of the keeper.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._listeners: tuple[Callable[[ContainerEvent], None], ...] = ()
        self._log = get_logger("engine")
        self.containers = Containers(parts, self._notify)
        self.execs = Execs(parts.keeper, ExecResolver(parts.run))
        collection = ImageCollection(parts.images, self._image_users, parts.builder.kept_by_cache)
        watch = DiskWatch(parts.images, collection, parts.watermarks, parts.builder.forget_unused)
        self.images = Images(parts.images, parts.builder, collection, watch, self._image_users)
        self.build_cache = BuildCache(parts, collection)
        self.archives = Archives(parts.images, parts.layout, self.images)
        self.networks = Networks(parts.networks)
        self.capacity = Capacity(parts.layout.root)

    @property
    def volumes(self) -> VolumeStore:
        """Named volumes."""
        return self._parts.volumes

    @property
    def connected(self) -> bool:
        """Whether the keeper is connected at this moment."""
        return self._parts.keeper.connected

    def start(self) -> None:
        """Connect to the keeper and bring records and reality together. Raises HoldfastError."""
        self._parts.keeper.connect()
        states = self._parts.keeper.states()
        known = {record.id for record in self.containers.list()}
        self._parts.networks.recover(state.id for state in states if state.running and state.id in known)
        self._parts.builder.sweep()
        self.containers.recover(self._parts.keeper.states())
        self.images.watch.start()

    def _image_users(self) -> dict[str, list[str]]:
        """The images of all containers, whatever their state: by id, the containers' names."""
        users: dict[str, list[str]] = {}
        for record in self.containers.list():
            users.setdefault(record.config.image, []).append(record.name)
        return users

    def on_keeper_event(self, event: KeeperEvent) -> None:
        """Runs in the keeper client's reader thread."""
        self.containers.on_keeper_event(event)
        self.execs.on_keeper_event(event)
        self._parts.builder.on_keeper_event(event)

    def usage(self, stop: threading.Event | None = None) -> Usage:
        """What takes the room of the data root; reads whole trees, so it may be slow. Raises HoldfastError."""
        return UsageReader(self._parts, self.images).read(self.containers.list(), stop or threading.Event())

    def subscribe(self, callback: Callable[[ContainerEvent], None]) -> None:
        """Call back on every container event, in order, from a thread of the engine; it must not block."""
        with self._lock:
            self._listeners = (*self._listeners, callback)

    def _notify(self, event: ContainerEvent) -> None:
        for listener in self._listeners:
            listener(event)

    def exec_start(self, container_id: str, args: Sequence[str]) -> ExecHandle:
        """Start a process without a terminal and without input, as the container's own user. Raises HoldfastError."""
        return self.execs.start(self.containers.get(container_id), args, ExecOptions())

    def exec_kill(self, exec_id: str, number: int) -> None:
        """Signal an exec; one that has ended is fine."""
        self.execs.kill_id(exec_id, number)

    def down(self) -> None:
        """Stop and remove every container and network of this agent; volumes and images stay. Raises HoldfastError."""
        self.containers.remove_all()
        self._parts.networks.down()
        self._parts.cgroups.down()

    def close(self) -> None:
        """Let go of the host; containers go on. Without any, a keeper of ours is ended and our cgroups are removed."""
        self.images.watch.close()
        self.containers.close()
        self._parts.builder.wait_tidy()
        try:
            if self._parts.keeper.spawns and not self.containers.list():
                self._parts.keeper.shutdown()
        except Conflict:
            self._log.debug("the keeper has containers and goes on")
        try:
            if not self.containers.list():
                self._parts.cgroups.down()
        except HoldfastError as error:
            self._log.debug("cgroups are left for the next start", error=str(error))

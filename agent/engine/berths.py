"""What is the same for every container, made before it is asked for: an id, directories, cgroups, and an init that
waits for its order.

A container that is started takes a berth; the next is made a moment later, when the processors have nothing better
to do. What a dead agent leaves of them has no record and is swept as all such things are.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from agent.engine.directories import ContainerDirectories
from agent.engine.model import ContainerConfig
from agent.engine.parts import Parts
from agent.errors import HoldfastError
from agent.runtime.bundle import DEFAULT_SHM_SIZE, render_standard
from agent.runtime.protocol import CgroupPlan, ReserveRequest
from agent.telemetry.logging import get_logger
from agent.values import frozen

log = get_logger("engine")
COUNT = 2
LEAST_MEMORY = 64 << 20
_QUIET_SECONDS = 0.05
_RETRY_SECONDS = 10.0


@frozen
class Berth:
    """A container that is not one yet. ``reserved``: the keeper holds an init for it."""

    id: str
    directory: Path
    cgroup: CgroupPlan
    reserved: bool = False


def suits(config: ContainerConfig) -> bool:
    """Whether a waiting init will do: it has its own /dev/shm, and some megabytes of memory until it becomes the
    program, which a small limit would not let it have."""
    memory = config.resources.memory
    return config.resources.shm_size == DEFAULT_SHM_SIZE and (memory is None or memory >= LEAST_MEMORY)


class BerthMaker:
    """Makes berths; on any error nothing of one is left. ``standard`` is what an init of theirs has prepared."""

    def __init__(self, parts: Parts, directories: ContainerDirectories, erase: Callable[[str], None]) -> None:
        self._parts = parts
        self._directories = directories
        self._erase = erase
        self.standard = render_standard()

    def make(self, *, reserve: bool) -> Berth:
        """One berth, with an init when ``reserve`` and the keeper can. Raises OSError, HoldfastError."""
        berth_id = secrets.token_hex(32)
        with contextlib.ExitStack() as undo:
            undo.callback(self._erase, berth_id)
            cgroup = self._parts.cgroups.create(berth_id)
            directory = self._directories.make(berth_id)
            undo.pop_all()
        return Berth(berth_id, directory, cgroup, reserve and self._reserve(berth_id, cgroup))

    def _reserve(self, berth_id: str, cgroup: CgroupPlan) -> bool:
        try:
            self._parts.keeper.reserve(ReserveRequest(berth_id, cgroup.join, self.standard))
        except HoldfastError as error:  # also a keeper of an earlier version, which knows no reserves
            log.debug("no init could be made ahead", error=str(error))
            return False
        return True


class Berths:
    """Keeps ``COUNT`` ready once started. Thread-safe. ``erase`` takes one of an id away again."""

    def __init__(self, maker: BerthMaker, erase: Callable[[str], None]) -> None:
        self._maker = maker
        self._erase = erase
        self._condition = threading.Condition()
        self._ready: deque[Berth] = deque()
        self._taken = 0.0
        self._closed = True
        self._resting = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to make them ahead."""
        with self._condition:
            self._begin()

    def _begin(self) -> None:
        self._closed = self._resting = False
        self._thread = threading.Thread(target=self._refill, name="berths", daemon=True)
        self._thread.start()

    def take(self) -> Berth:
        """One that is ready, or one made now, without an init then. Raises OSError, HoldfastError.

        Call ``replenish`` when the container runs: another thread would only be in its way until then.
        """
        with self._condition:
            self._taken = time.monotonic()
            if self._resting:
                self._begin()
            if self._ready:
                return self._ready.popleft()
        return self._maker.make(reserve=False)

    def replenish(self) -> None:
        """Make the next, in a quiet moment."""
        with self._condition:
            self._condition.notify_all()

    def ready(self) -> frozenset[str]:
        """The ids of those that wait."""
        with self._condition:
            return frozenset(berth.id for berth in self._ready)

    def rest(self) -> None:
        """Take away what is ready, and make no more until one is taken again."""
        self.close()
        with self._condition:
            self._resting = True

    def close(self) -> None:
        """Take away what is ready, and make no more."""
        with self._condition:
            self._closed, self._resting = True, False
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        while self._ready:
            berth = self._ready.popleft()
            try:
                self._erase(berth.id)
            except (OSError, HoldfastError) as error:
                log.warning("left for the next start to sweep", container=berth.id[:12], error=str(error))

    def _refill(self) -> None:
        while self._await_need():
            try:
                berth = self._maker.make(reserve=True)
            except (OSError, HoldfastError) as error:
                log.debug("nothing could be made ahead", error=str(error))
                self._pause(_RETRY_SECONDS)
                continue
            with self._condition:
                self._ready.append(berth)

    def _await_need(self) -> bool:
        """Wait until one is short, and for a quiet moment; False when closed."""
        with self._condition:
            while not self._closed:
                rest = self._taken + _QUIET_SECONDS - time.monotonic()
                if len(self._ready) >= COUNT:
                    self._condition.wait()
                elif rest > 0:
                    self._condition.wait(rest)
                else:
                    return True
            return False

    def _pause(self, seconds: float) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._closed, seconds)

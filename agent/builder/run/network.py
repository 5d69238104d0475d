"""The network of RUN steps: one bridge with a way out, there while builds need it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from agent.builder.tidying import Tidying
from agent.errors import HoldfastError
from agent.network.model import Sandbox
from agent.network.stack import NetworkStack
from agent.values import frozen

NETWORK = "holdfast-build"
_LINGER_SECONDS = 10.0
_AGAIN_SECONDS = 5.0


@frozen
class StepNetwork:
    """The network of one step: the namespace to enter, the step's address and its name server, both empty for none.
    ``shared`` is the host's own."""

    netns: Path
    address: str = ""
    dns: str = ""
    shared: bool = False


HOST_NETWORK = StepNetwork(Path("/proc/self/ns/net"), shared=True)
"""The keeper's own namespace, which is the one it opens that path in."""


class BuildNetwork:
    """Thread-safe. The network is made for the first step that runs, and removed some time after the last build: it
    brings a name server with it, a process that the next build need not start again."""

    def __init__(self, networks: NetworkStack, tidying: Tidying) -> None:
        self._networks = networks
        self._tidying = tidying
        self._lock = threading.Lock()
        self._builds = 0
        self._made = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """For the time of one build."""
        with self._lock:
            self._builds += 1
        try:
            yield
        finally:
            with self._lock:
                self._builds -= 1
                made = self._made
            if made:
                self._tidying.later(self._remove, _LINGER_SECONDS)

    def _remove(self) -> None:
        """Unless a build is under way; the end of that will ask again. When it fails the next one's end does."""
        with self._lock, suppress(HoldfastError):
            if not self._builds and self._made:
                self._networks.remove_network(NETWORK)
                self._made = False

    def attach(self, container_id: str, hostname: str, *, alone: bool = False) -> Sandbox:
        """A sandbox for one step, with loopback only when it is to be ``alone``. Raises what the stack raises."""
        if alone:
            return self._networks.attach(container_id, hostname, [])
        with self._lock:
            if not self._made:
                self._networks.ensure_network(NETWORK)
                self._made = True
        return self._networks.attach(container_id, hostname, [(NETWORK, ())])

    def detach(self, container_id: str) -> None:
        """Take a step's sandbox away; later, where that cannot be written down now: a step may have filled the disk."""
        try:
            self._networks.detach(container_id)
        except HoldfastError:
            self._tidying.later(partial(self._networks.detach, container_id), _AGAIN_SECONDS)

    def sweep(self, container_ids: Iterable[str]) -> None:
        """Remove what an earlier process left."""
        for container_id in container_ids:
            self._networks.detach(container_id)
        with self._lock:
            if not self._builds:
                self._networks.remove_network(NETWORK)

"""What runs, as far as the keeper has said: so that an end which came while nobody listened is told all the same."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from agent.runtime.protocol import KeeperEvent, KeeperState


class Roll:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._execs: dict[str, str] = {}

    def note(self, event: KeeperEvent) -> None:
        """The keeper has said this."""
        with self._lock:
            if event.kind == "started":
                self._running.add(event.id)
            elif event.kind == "exited":
                self._running.discard(event.id)
            elif event.kind == "exec_exited":
                self._execs.pop(event.exec_id, None)

    def note_exec(self, exec_id: str, container_id: str) -> None:
        """An exec runs in a container."""
        with self._lock:
            self._execs[exec_id] = container_id

    def call(self, states: Mapping[str, KeeperState]) -> list[KeeperEvent]:
        """The ends of all that ran and does not any more, ``states`` being what there is by id; what runs now is noted.
        Each of them is still to be noted when it is told."""
        with self._lock:
            living = {exec_id for state in states.values() for exec_id in state.execs}
            missed = [event for name in sorted(self._running) if (event := _compute_end(name, states.get(name)))]
            ended = [KeeperEvent("exec_exited", where, one) for one, where in self._execs.items() if one not in living]
            self._running |= {name for name, state in states.items() if state.running}
        return [*missed, *ended]


def _compute_end(container_id: str, state: KeeperState | None) -> KeeperEvent | None:
    """The exit event for a container that ran; None when it still does."""
    if state is not None and state.exit is None:
        return None
    if state is None or state.exit is None:
        return KeeperEvent("exited", container_id)
    end = state.exit
    return KeeperEvent("exited", container_id, "", state.pid, end.code, end.signal, end.oom, end.at)

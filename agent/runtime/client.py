"""The agent's side of the keeper: what can be asked of it, as calls; what it tells, as callbacks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent.errors import Conflict, HoldfastError, NotFound
from agent.runtime.line import Answer, KeeperLine
from agent.runtime.protocol import (
    CreateRequest,
    ExecRequest,
    KeeperEvent,
    KeeperState,
    OverlaySpec,
    ReserveRequest,
    decode_state,
    encode_create,
    encode_exec,
    encode_overlay,
    encode_reserve,
)


class KeeperClient:
    """Thread-safe; any number of calls may be in flight. ``on_event`` runs in the reader thread: it must be quick.

    When the keeper dies a new one is started (``spawn``; else it is awaited, for a service manager starts it), which
    adopts what lives; calls in flight raise Waiting, and the end of everything that ended meanwhile is announced as
    if nothing had happened.
    """

    def __init__(self, run_root: Path, on_event: Callable[[KeeperEvent], None], *, spawn: bool = True) -> None:
        self._line = KeeperLine(run_root, on_event, spawn=spawn)

    def connect(self) -> None:
        """Connect, starting or awaiting a keeper if there is none. Raises Waiting when that fails, and Stalled when the
        keeper sees other mounts than this process: containers would find empty directories where layers are mounted.
        """
        self._line.connect()

    @property
    def spawns(self) -> bool:
        """Whether the keeper is ours to start and to end."""
        return self._line.spawn

    @property
    def connected(self) -> bool:
        """Whether a keeper is there at this moment."""
        return self._line.connected

    def close(self) -> None:
        """Hang up; keeper and containers go on."""
        self._line.close()

    def _call(self, name: str, fds: list[int] | None = None, **fields: Any) -> Answer:
        return self._line.call(name, fds, **fields)

    def create_start(self, request: CreateRequest, meanwhile: Callable[[], None]) -> int:
        """Create and start, with ``meanwhile`` carried out in between, while the container sets itself up: what it
        raises keeps the container from starting. Returns the pid on the host."""
        created = self._line.send("create", request=encode_create(request))
        meanwhile()
        try:
            return int(self._call("start", id=request.id)[0]["pid"])
        except (NotFound, Conflict):
            self._line.wait(created, "create")  # raises why it ended; or an earlier keeper wants to be waited for
            return int(self._call("start", id=request.id)[0]["pid"])

    def create(self, request: CreateRequest) -> int:
        """Set a container up, up to the point of running its program. Returns the pid on the host."""
        return int(self._call("create", request=encode_create(request))[0]["pid"])

    def start(self, container_id: str) -> None:
        """Run a created container's program. Raises CommandFailed when there is none to run."""
        self._call("start", id=container_id)

    def reserve(self, request: ReserveRequest) -> int:
        """Fork an init ahead; it ends with this connection. Returns its pid on the host."""
        return int(self._call("reserve", request=encode_reserve(request))[0]["pid"])

    def reserve_soon(self, request: ReserveRequest) -> None:
        """The same without waiting for it. Where it comes to nothing the order makes an ordinary init."""
        with contextlib.suppress(HoldfastError):
            self._line.send("reserve", request=encode_reserve(request))

    def board(self, container_id: str, rootfs: OverlaySpec, netns: Path) -> None:
        """Tell a reserve where it will live, for it to go ahead; does not wait, and it is no loss if nobody listens."""
        request = {"id": container_id, "rootfs": encode_overlay(rootfs), "netns": str(netns)}
        self._line.post("board", request)

    def run(self, request: CreateRequest) -> int:
        """Create and start in one message. Returns the pid on the host."""
        return int(self._call("run", request=encode_create(request))[0]["pid"])

    def kill(self, container_id: str, signal: int, everyone: bool = False) -> None:
        """Signal the first process, or with ``everyone`` all of the cgroup. Raises Conflict when it has ended."""
        self._call("kill", id=container_id, signal=int(signal), everyone=everyone)

    def delete(self, container_id: str) -> None:
        """Forget an ended (or never started) container. Raises Conflict while it runs."""
        self._call("delete", id=container_id)

    def states(self) -> tuple[KeeperState, ...]:
        """Every container the keeper knows, by id."""
        found: list[KeeperState] = []
        while True:
            reply, _ = self._call("states", after=found[-1].id if found else "")
            found += [decode_state(state) for state in reply["states"]]
            if not reply["more"]:
                return tuple(found)

    def exec(self, request: ExecRequest, fds: Sequence[int] = ()) -> tuple[str, int]:
        """Run a further process; returns its id and, with a terminal, the master's descriptor (the caller's to close).

        Without a terminal ``fds`` are its stdin, stdout and stderr; the caller still closes its own copies, and gets
        -1 for the master.
        """
        reply, received = self._call("exec", [] if request.terminal else list(fds), request=encode_exec(request))
        return str(reply["exec_id"]), received[0] if received else -1

    def resize(self, exec_id: str, rows: int, columns: int) -> None:
        """Resize an exec's terminal."""
        self._call("resize", exec_id=exec_id, rows=rows, columns=columns)

    def exec_kill(self, exec_id: str, signal: int) -> None:
        """Signal an exec. Raises NotFound when it has ended."""
        self._call("exec_kill", exec_id=exec_id, signal=int(signal))

    def upgrade(self, python: str = "", root: str = "") -> None:
        """Replace the keeper's program in place; empty arguments mean the same interpreter and package."""
        self._call("upgrade", python=python, root=root)

    def shutdown(self) -> None:
        """End the keeper, wait until it hangs up, start no other. Raises Conflict while it has containers that run."""
        self._line.end()

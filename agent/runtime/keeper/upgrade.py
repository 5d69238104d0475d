"""A new version of the keeper in the same process: same pid, same children, same descriptors.

What cannot be read back from disk goes into a memfd as JSON; execve(2) does the rest. When it fails the old version
goes on as if nothing had been asked.
"""

from __future__ import annotations

import _socket
import os
import sys

from agent.kernel.process import read_small_file
from agent.runtime.keeper import adopt
from agent.runtime.keeper import container as states
from agent.runtime.keeper.container import Container
from agent.runtime.keeper.execs import Exec
from agent.runtime.keeper.failure import Failure
from agent.runtime.keeper.oom import OomWatch
from agent.runtime.keeper.order import Order
from agent.runtime.keeper.parts import Keeper
from agent.runtime.keeper.pump import Pump
from agent.runtime.keeper.report import adopt_line
from agent.runtime.keeper.sealed import compute_command, execute_sealed, find_package_root
from agent.runtime.wire import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.runtime.keeper.server import Ticket

_MAX_HANDOVER = 256 << 20


def upgrade(keeper: Keeper, python: str, root: str, ticket: Ticket) -> None:
    """Become the keeper of ``root`` (a directory with the package) run by ``python``; empty keeps the same.

    Raises Failure when something is being set up just now, or when the new version does not even start.
    """
    busy = [c.id for c in keeper.supervisor.containers.values() if c.status in (states.CREATING, states.STARTING)]
    busy += [one.id for one in keeper.execs.running.values() if one.ticket is not None]
    if busy:
        raise Failure("Busy", f"{len(busy)} set-ups are under way")
    python, root = python or sys.executable, root or find_package_root()
    _check(python, root)
    keeper.supervisor.reserves.drop_all()
    ticket.answer({})
    handover = _write_handover(keeper)
    kept = [handover]
    try:
        kept += _descriptors(keeper)
        for descriptor in kept:
            os.set_inheritable(descriptor, True)
        execute_sealed(python, root, {"run_root": keeper.run_root, "handover": handover})
    except OSError:
        sys.excepthook(*sys.exc_info())
        for descriptor in kept:
            os.set_inheritable(descriptor, False)
        os.close(handover)


def _check(python: str, root: str) -> None:
    """Let the new version import itself in a process of its own first."""
    code = f"import sys; sys.path.insert(0, {root!r}); import agent.runtime.keeper.main"
    command = [*compute_command(python, root, {})[:-1], code]
    pid = os.posix_spawn(python, command, {"LC_ALL": "C.UTF-8"})
    _, status = os.waitpid(pid, 0)
    if status:
        raise Failure("UpgradeRefused", f"the version in {root} does not start")


def _descriptors(keeper: Keeper) -> list[int]:
    kept = [keeper.lock, keeper.server.listener.fileno()]
    kept += [client.socket.fileno() for client in keeper.server.clients if client.idle]
    for container in keeper.supervisor.containers.values():
        kept += [pump.fd for pump in container.pumps if pump.fd >= 0]
        kept += [container.pidfd] if container.pidfd >= 0 else []
        kept += [container.line.fileno()] if container.line is not None else []
    kept += [one.pidfd for one in keeper.execs.running.values()]
    return kept


def _write_handover(keeper: Keeper) -> int:
    document = {
        "lock": keeper.lock,
        "listener": keeper.server.listener.fileno(),
        "clients": [[c.socket.fileno(), c.subscribed] for c in keeper.server.clients if c.idle],
        "containers": [_describe(container) for container in keeper.supervisor.containers.values()],
        "execs": [[one.id, one.container, one.pid, one.pidfd] for one in keeper.execs.running.values()],
    }
    handover = os.memfd_create("handover", os.MFD_CLOEXEC)
    data = memoryview(encode(document))
    while data:
        data = data[os.write(handover, data) :]
    return handover


def _describe(container: Container) -> dict[str, Any]:
    return {
        **container.remember(),
        "status": container.status,
        "own": container.own,
        "pidfd": container.pidfd,
        "line": container.line.fileno() if container.line is not None else None,
        "pumps": [[pump.fd, pump.stream] for pump in container.pumps if pump.fd >= 0],
        "kills": container.oom.kills if container.oom is not None else 0,
        "exit": container.exit,
    }


def resume(run_root: str, handover: int) -> Keeper:
    """The keeper that the old version described; its descriptors become ours, closed on exec again."""
    document = decode(read_small_file(f"/proc/self/fd/{handover}", _MAX_HANDOVER))
    os.close(handover)
    os.set_inheritable(document["lock"], False)
    keeper = Keeper(run_root, document["lock"])
    os.set_inheritable(document["listener"], False)
    keeper.serve(_socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, document["listener"]), upgrade)
    for descriptor, subscribed in document["clients"]:
        os.set_inheritable(descriptor, False)
        keeper.server.add(descriptor, subscribed=subscribed)
    for fields in document["containers"]:
        _resume_container(keeper, fields)
    for exec_id, container, pid, pidfd in document["execs"]:
        os.set_inheritable(pidfd, False)
        one = Exec(exec_id, container, None, None)
        one.pid, one.pidfd = pid, pidfd
        keeper.execs.running[exec_id] = one
        keeper.execs.watch(one)
    return keeper


def _resume_container(keeper: Keeper, fields: dict[str, Any]) -> None:
    container = Container(Order(fields["order"]))
    container.pid, container.start_time, container.status = fields["pid"], fields["start_time"], fields["status"]
    container.started, container.private_pids = fields["started"], fields["private_pids"]
    container.own, container.exit, container.pidfd = fields["own"], fields["exit"], fields["pidfd"]
    keeper.supervisor.containers[container.id] = container
    if container.pidfd < 0:
        return
    os.set_inheritable(container.pidfd, False)
    if fields["line"] is not None:
        os.set_inheritable(fields["line"], False)
        container.line = adopt_line(fields["line"])
    container.piped = container.status == states.CREATED and container.writer is not None and not fields["pumps"]
    for descriptor, stream in fields["pumps"]:
        os.set_inheritable(descriptor, False)
        if container.writer is not None:
            container.pumps.append(Pump(keeper.loop, descriptor, stream, container.writer))
    if container.order.oom:
        version, path = container.order.oom
        container.oom = OomWatch(keeper.loop, version, path, lambda: keeper.supervisor.tell_oom(container))
        container.oom.kills = fields["kills"]
    if container.own:
        keeper.supervisor.watch(container)
    else:
        adopt.watch_adopted(keeper.supervisor, container)

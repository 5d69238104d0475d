"""Signals to a container: to its first process by pidfd, or to everything in its cgroup."""

from __future__ import annotations

import os

from agent.kernel import pidfd as pf
from agent.kernel.process import read_small_file
from agent.runtime.keeper.failure import Failure, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.keeper.order import Order

_SIGKILL = 9
_ROUNDS = 16
_MAX_SIGNAL = 64


def kill_process(descriptor: int, number: int, name: str) -> None:
    """Signal one process. Raises Failure when the number is no signal or the process has ended."""
    if not 0 < number <= _MAX_SIGNAL:
        raise Failure("InvalidRequest", f"{number} is not a signal")
    try:
        pf.send_signal(descriptor, number)
    except ProcessLookupError:
        raise Failure("NotRunning", f"{name} has ended") from None
    except OSError as error:
        raise Failure("HostError", f"signal {name}: {explain(error)}") from None


def kill_everyone(order: Order, number: int) -> None:
    """Signal every process of the cgroup. SIGKILL goes through cgroup.kill where there is one, which none escapes."""
    if number == _SIGKILL and order.kill and _kill_cgroup(order.kill):
        return
    rounds = _ROUNDS if number == _SIGKILL else 1
    for directory in order.join[:1]:
        for _ in range(rounds):
            if not _signal_members(directory, number):
                break


def _kill_cgroup(directory: str) -> bool:
    try:
        descriptor = os.open(f"{directory}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, b"1")
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _signal_members(directory: str, number: int) -> bool:
    """One pass over the members; False when there was none left. Those of other pid namespaces, which the kernel calls
    0, are left out: a signal to 0 would go to ourselves."""
    try:
        members = [pid for pid in map(int, read_small_file(f"{directory}/cgroup.procs", 1 << 20).split()) if pid]
    except (OSError, ValueError):
        return False
    for pid in members:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    return bool(members)

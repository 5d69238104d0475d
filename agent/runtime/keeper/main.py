"""The keeper's start: close all doors, take over what lives, serve for ever."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import fcntl
import gc
import os
import sys

from agent.kernel.allocator import trim_heap
from agent.kernel.daemons import write_pid
from agent.kernel.process import reset_signals, set_dumpable, set_name
from agent.runtime.keeper import adopt, upgrade
from agent.runtime.keeper.become import raise_own_limits
from agent.runtime.keeper.parts import Keeper
from agent.runtime.keeper.sealed import close_image
from agent.runtime.keeper.server import create_listener
from agent.runtime.wire import LOCK_NAME, PID_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TERMINATING = (_signal.SIGINT, _signal.SIGHUP)


def main(options: dict[str, Any]) -> None:
    """Run a keeper: ``run_root``, the sealed ``image``, and ``handover`` after an upgrade in place."""
    set_dumpable(False)
    set_name("holdfast-keeper")
    _prepare_signals()
    close_image(options["image"])
    raise_own_limits()
    os.umask(0o077)
    run_root = options["run_root"]
    if options.get("handover") is not None:
        keeper = upgrade.resume(run_root, options["handover"])
    else:
        lock = take_lock(run_root, patient=options.get("ready") is None)
        write_pid(f"{run_root}/{PID_NAME}")
        keeper = Keeper(run_root, lock)
        adopt.adopt_all(keeper.supervisor)
        keeper.serve(create_listener(run_root), upgrade.upgrade)
        _tell_ready(options.get("ready"))
    gc.collect()
    gc.freeze()
    gc.disable()
    trim_heap()
    keeper.loop.run()


def take_lock(run_root: str, *, patient: bool) -> int:
    """The lock that makes this the only keeper of its run root.

    When another one holds it this one exits; a ``patient`` one, which a service manager runs and would start again
    and again, stands by for the other's end.
    """
    lock = os.open(f"{run_root}/{LOCK_NAME}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not patient:
            sys.exit(0)
        os.write(2, f"another keeper serves {run_root}; this one stands by\n".encode())
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _tell_ready(descriptor: int | None) -> None:
    """Tell whoever started us that the socket is there."""
    if descriptor is not None:
        os.write(descriptor, b"r")
        os.close(descriptor)


def _prepare_signals() -> None:
    """No disposition of whoever started us may reach a container, and a terminal's signals may not reach us."""
    reset_signals()
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
    for number in _TERMINATING:
        _signal.signal(number, _wake)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def _wake(_number: int, _frame: object) -> None:
    """Ignore a signal, by a handler and not by SIG_IGN, which an execve would pass on."""

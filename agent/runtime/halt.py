"""Ending every container at the host's shutdown: as each of them wants it, and with nothing written down.

For the agent that comes after the boot these containers are lost as after a power cut, and it makes new ones. Without
this the service manager would send all of them a SIGTERM, which a first process in a pid namespace may well ignore,
and then wait for a minute and a half.
"""

from __future__ import annotations

import contextlib
import signal
import time

from agent.errors import HoldfastError
from agent.runtime.client import KeeperClient

_PAUSE_SECONDS = 0.1


def halt_containers(client: KeeperClient) -> int:
    """Ask all to end, at the same time; SIGKILL for what is left when its grace is over. Returns how many ran.

    Nobody may start containers meanwhile. Raises HoldfastError when the keeper does not answer.
    """
    begin = time.monotonic()
    asked: set[str] = set()
    while left := [state for state in client.states() if state.running]:
        for state in left:
            with contextlib.suppress(HoldfastError):  # it has just ended
                if state.id not in asked:
                    client.kill(state.id, state.stop.signal)
                elif time.monotonic() - begin >= state.stop.grace:
                    client.kill(state.id, signal.SIGKILL, everyone=True)
        asked |= {state.id for state in left}
        time.sleep(_PAUSE_SECONDS)
    return len(asked)

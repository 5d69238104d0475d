"""The name server's sockets, bound here and handed over: what is asked while no name server runs waits in them."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from agent.network.claims import find_listener
from agent.network.model import NetworkFailed, NetworkInfo, Port
from agent.network.nameserver.endpoint import bind_pair, close_pair, take_pair
from agent.network.nameserver.message import DNS_PORT

if TYPE_CHECKING:
    from agent.network.nameserver.endpoint import Pair


class Gateways:
    """UDP and TCP port 53 of every network's gateway. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pairs: dict[str, Pair] = {}

    def ensure(self, info: NetworkInfo) -> None:
        """Have a network's sockets; those that are there stay. Raises NetworkFailed."""
        with self._lock:
            if info.gateway in self._pairs:
                return
            try:
                self._pairs[info.gateway] = bind_pair(info.gateway)
            except OSError as error:
                raise _explain(info, error) from error

    def adopt(self, gateway: str, descriptors: list[int]) -> None:
        """Take sockets over that another process has bound; they are closed when there are some already."""
        pair = take_pair(descriptors)
        with self._lock:
            if gateway not in self._pairs:
                self._pairs[gateway] = pair
                return
        close_pair(pair)

    def retain(self, gateways: Iterable[str]) -> None:
        """Close the sockets of all other gateways."""
        with self._lock:
            for gone in self._pairs.keys() - set(gateways):
                close_pair(self._pairs.pop(gone))

    def drop(self, gateway: str) -> None:
        """Close a gateway's sockets; the port is free when the name server has closed them too."""
        with self._lock:
            pair = self._pairs.pop(gateway, None)
        if pair is not None:
            close_pair(pair)

    def duplicate(self, gateway: str) -> list[int]:
        """Two descriptors to hand over, the caller's to close; none when the sockets could not be bound."""
        with self._lock:
            return [os.dup(one.fileno()) for one in self._pairs.get(gateway, ())]

    def close(self) -> None:
        """Close all of ours."""
        self.retain(())


def _explain(info: NetworkInfo, error: OSError) -> NetworkFailed:
    holder = ""
    if error.errno == errno.EADDRINUSE:
        with contextlib.suppress(OSError):
            holder = find_listener(Port("", DNS_PORT, "udp")) or find_listener(Port("", DNS_PORT, "tcp"))
    return NetworkFailed(
        f"network {info.name}: no name server on {info.gateway}:{DNS_PORT}: {error.strerror}",
        hint=f"{holder} listens on every address; bind it to its own ones" if holder else None,
    )

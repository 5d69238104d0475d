"""Names as the network stack deals with them: a name server on every network's gateway, or why there is none."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from agent.network.gateways import Gateways
from agent.network.model import NetworkFailed, NetworkInfo
from agent.network.namelink import NameLink
from agent.network.names import NameTable
from agent.network.namespawn import Upstream
from agent.network.reactor import Reactor

_BIND_AGAIN_SECONDS = 5.0
_SETTLE_SECONDS = 2.0


class NameService:
    """Thread-safe but for ``recover``, ``start``, ``quit`` and ``close``, which the stack calls under its lock."""

    def __init__(self, run_root: Path, names: NameTable, reactor: Reactor, upstreams: Upstream) -> None:
        self._names = names
        self._reactor = reactor
        self._gateways = Gateways()
        self._link = NameLink(run_root, names, self._gateways, upstreams)
        self._lock = threading.Lock()
        self._unbound: dict[str, tuple[NetworkInfo, str]] = {}

    def recover(self, infos: Collection[NetworkInfo]) -> None:
        """Take over from an earlier agent's name server, and have the sockets of these networks and no others.

        Port 53 of a gateway that somebody else holds is tried again every few seconds; ``fault`` tells.
        """
        self._link.meet()
        self._gateways.retain({info.gateway for info in infos})
        for info in infos:
            try:
                self._gateways.ensure(info)
            except NetworkFailed as error:
                with self._lock:
                    self._unbound[info.name] = info, str(error)
        if self._unbound:
            self._reactor.call_soon(self._bind_later)

    def start(self) -> None:
        """Have a name server from now on; one that was met knows all names of this moment when this returns."""
        met = self._link.met
        self._link.start()
        if met:
            self._link.settle(_SETTLE_SECONDS)

    def add(self, info: NetworkInfo) -> None:
        """Answer on a network's gateway. Raises NetworkFailed when somebody else has its port 53."""
        self._gateways.ensure(info)
        with self._lock:
            self._unbound.pop(info.name, None)
        self._names.add_network(info)

    def remove(self, info: NetworkInfo) -> None:
        """Answer no more on a network's gateway; its port is free when this returns, if the name server lives."""
        with self._lock:
            self._unbound.pop(info.name, None)
        self._names.remove_network(info.name)
        self._gateways.drop(info.gateway)
        self._link.settle(_SETTLE_SECONDS)

    def quit(self) -> None:
        """End the name server, for there is no network any more."""
        self._link.quit()
        self._gateways.close()

    def close(self) -> None:
        """Let go of the name server, which goes on."""
        self._link.close()
        self._gateways.close()

    @property
    def fault(self) -> str:
        """Why names are not answered at the moment, in all networks or in some; empty when they are."""
        with self._lock:
            unbound = [text for _, text in self._unbound.values()]
        return "; ".join(filter(None, [self._link.fault, *unbound]))

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back, in a thread of ours, whenever ``fault`` may have changed."""
        self._link.on_fault = callback

    def _bind_later(self) -> None:
        self._reactor.call_later(_BIND_AGAIN_SECONDS, self._bind_again)

    def _bind_again(self) -> None:
        with self._lock:
            waiting = [info for info, _ in self._unbound.values()]
        for info in waiting:
            with contextlib.suppress(NetworkFailed):
                self.add(info)
        if self._unbound:
            self._bind_later()
        self._link.on_fault()

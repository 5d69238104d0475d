"""What others do to our nftables table is heard and put right, and what the balancer could not do is tried again."""

from __future__ import annotations

from agent.kernel.netlink_nftables import TransactionReader, open_nftables_listener
from agent.network.balancer import Balancer
from agent.network.reactor import Reactor

_REPAIR_SECONDS = 5.0


class TableWatch:
    """``check`` may be called from any thread; all else runs in the reactor's. Raises OSError when it is made."""

    def __init__(self, table: str, balancer: Balancer, reactor: Reactor) -> None:
        self._balancer = balancer
        self._reactor = reactor
        self._transactions = TransactionReader(table)
        self._repairing = False
        self._listener = open_nftables_listener()
        reactor.watch(self._listener, self._hear)

    def check(self) -> None:
        """The balancer has tried something: should it not be whole, have it tried again in a few seconds."""
        if self._balancer.needs_repair:
            self._reactor.call_soon(self._schedule)

    def _hear(self) -> None:
        messages = self._listener.read()
        if messages is None:
            self._balancer.observe_loss()
        else:
            self._balancer.observe(self._transactions.feed(messages))
        if self._balancer.needs_repair:
            self._schedule()

    def _schedule(self) -> None:
        if not self._repairing:
            self._repairing = True
            self._reactor.call_later(_REPAIR_SECONDS, self._repair)

    def _repair(self) -> None:
        self._repairing = False
        try:
            self._balancer.repair()
        finally:
            if self._balancer.needs_repair:
                self._schedule()

    def close(self) -> None:
        """Hear nothing more; to be called when the reactor has ended."""
        self._listener.close()

"""Keeps our nftables table as it should be: computed from what is known, changed where it differs, put back whole when
touched."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from ipaddress import AddressValueError, IPv4Address

from agent.errors import HoldfastError, Unsupported
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.netlink_conntrack import delete_flows_to_backend, delete_untranslated_flows
from agent.kernel.netlink_nftables import Transaction
from agent.kernel.nftables import Nftables, NftablesError
from agent.network.claims import Claims
from agent.network.identity import Identity
from agent.network.model import NetworkFailed, NetworkInfo, Port, PortConflict, PortLike
from agent.network.records import NetworkRecords
from agent.network.ruleset import TableState, compute_table
from agent.network.table import Table, render_change, render_table
from agent.telemetry.logging import get_logger

log = get_logger("network")
_UDP = 17
RESTORES_PER_SECOND = 10


class Balancer:
    """Thread-safe. ``conflicts`` says which published ports are not ours, and why."""

    def __init__(
        self,
        identity: Identity,
        nftables: Nftables,
        conntrack: NetlinkSocket,
        records: NetworkRecords,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identity = identity
        self._nftables = nftables
        self._conntrack = conntrack
        self._records = records
        self._claims = Claims()
        self._lock = threading.RLock()
        self._networks: tuple[NetworkInfo, ...] = ()
        self._closed: tuple[str, ...] = ()
        self._wanted: tuple[Port, ...] = ()
        self._ports: tuple[Port, ...] = ()
        self._table: Table | None = None
        self._left_over = False
        self._own_transactions = 0
        self._down = False
        self._broken = False
        self._clock = clock
        self._restored: deque[float] = deque(maxlen=RESTORES_PER_SECOND)
        self.conflicts: tuple[PortConflict, ...] = ()

    def recover(self, networks: Iterable[NetworkInfo], closed: Sequence[str], live: frozenset[str]) -> None:
        """Put in force what was published last, less the backends whose addresses are not in ``live``."""
        with self._lock:
            self._networks, self._closed = tuple(networks), tuple(closed)
            self._left_over = self._table is None  # an earlier process may have left the table
            self._wanted = tuple(
                Port(port.host_ip, port.host_port, port.protocol, tuple(b for b in port.backends if b[0] in live))
                for port in self._records.load_ports()
            )
            self._apply()

    def set_networks(self, networks: Iterable[NetworkInfo], closed: Sequence[str]) -> None:
        """Put the networks' own rules in force."""
        with self._lock:
            self._networks, self._closed = tuple(networks), tuple(closed)
            self._apply()

    def publish(self, ports: Iterable[PortLike]) -> tuple[HoldfastError, ...]:
        """Put exactly these ports in force; those that are in the way of something else are returned as errors.

        Raises NetworkFailed when the kernel refuses; what was in force stays.
        """
        wanted, problems = _check(ports)
        with self._lock:
            if wanted != self._wanted:
                self._wanted = wanted
                self._records.save_ports(wanted)
            self._apply()
            return (*problems, *self.conflicts)

    @property
    def needs_repair(self) -> bool:
        """Whether ``repair`` should be called after a while."""
        return not self._down and bool(self.conflicts or self._broken)

    def repair(self) -> None:
        """Try again to get the ports that something else had, and to restore a table that could not be restored."""
        with self._lock:
            if self.needs_repair:
                self._apply()

    def _apply(self) -> None:
        if not (self._table or self._left_over or self._wanted or self._networks):
            return
        ports, self.conflicts = self._claims.update(self._wanted)
        state = TableState(self._identity.table, self._identity.bridges, self._networks, ports, self._closed)
        table = compute_table(state)
        before = self._ports
        if table != self._table or self._broken:
            self._put(table)
            self._broken = self._left_over = False
            self._table, self._ports = table, ports
            self._forget_flows(before, ports)

    def _put(self, table: Table) -> None:
        """Change what differs from what is in force; if the kernel does not have that, replace it whole."""
        change = render_change(self._table, table) if self._table is not None and not self._broken else None
        if change is not None:
            try:
                self._run(change)
            except NetworkFailed as error:
                log.warning("nftables table replaced, it was not as we left it", table=table.name, error=str(error))
            else:
                return
        self._run(render_table(table))

    def _run(self, text: str) -> None:
        if not text:
            return
        self._own_transactions += 1
        try:
            self._nftables.run(text)
        except NftablesError as error:
            self._own_transactions -= 1
            raise NetworkFailed(
                f"the kernel refused the table {self._identity.table}: {error}",
                hint="holdfast doctor says what nftables needs",
            ) from error

    def observe(self, transactions: Iterable[Transaction]) -> None:
        """React to what happened to our table: whatever we did not do ourselves is undone. Which transactions are whose
        nobody says, but one too many is seen in any order.
        """
        for transaction in transactions:
            if not transaction.touched:
                continue
            with self._lock:
                if self._own_transactions:
                    self._own_transactions -= 1
                elif not self._down and self._table:
                    self._restore("somebody changed our nftables table")

    def observe_loss(self) -> None:
        """Changes went by unseen: put the table in force again."""
        with self._lock:
            self._own_transactions = 0
            if not self._down and self._table:
                self._restore("changes of nftables went by unseen")

    def _restore(self, why: str) -> None:
        now = self._clock()
        if len(self._restored) == RESTORES_PER_SECOND and now - self._restored[0] < 1.0:
            log.error("somebody keeps changing our nftables table", table=self._identity.table)
            self._broken = True
            return
        self._restored.append(now)
        assert self._table is not None
        try:
            self._run(render_table(self._table))
        except NetworkFailed as error:
            log.error("the table could not be restored", table=self._identity.table, error=str(error))
            self._broken = True
        else:
            log.warning("nftables table restored", table=self._identity.table, why=why)

    def _forget_flows(self, before: Sequence[Port], after: Sequence[Port]) -> None:
        """UDP has no end of connection: make clients of a backend that left move on, and those that met none start."""
        old = {port.key: frozenset(port.backends) for port in before if port.protocol == "udp"}
        new = {port.key: frozenset(port.backends) for port in after if port.protocol == "udp"}
        gone = frozenset().union(*old.values()) - frozenset().union(*new.values())
        with contextlib.suppress(OSError):
            for address, target in gone:
                delete_flows_to_backend(self._conntrack, address, target, _UDP)
            for key, backends in new.items():
                if backends and not old.get(key):
                    delete_untranslated_flows(self._conntrack, key[1], _UDP)

    def close(self) -> None:
        """Stop; the table stays in force, the ports are no longer held."""
        with self._lock:
            self._down = True
            self._claims.close()

    def remove_if_idle(self) -> bool:
        """Take the table out unless ports are to be published: without networks nothing else is in it."""
        with self._lock:
            if self._wanted:
                return False
            if self._table or self._left_over:
                self.remove()
            return True

    def remove(self) -> None:
        """Take the table out of the kernel; it stays out until the next ``recover`` or ``publish``."""
        with self._lock:
            table = self._identity.table
            self._table, self._left_over, self._ports, self._wanted = None, False, (), ()
            self._run(f"table ip {table}\ndelete table ip {table}\n")
            self._claims.close()
            self.conflicts = ()


def _check(ports: Iterable[PortLike]) -> tuple[tuple[Port, ...], tuple[HoldfastError, ...]]:
    good: list[Port] = []
    bad: list[HoldfastError] = []
    for port in ports:
        try:
            good.append(_check_one(port))
        except Unsupported as error:
            bad.append(error)
    return tuple(good), tuple(bad)


def _check_one(port: PortLike) -> Port:
    name = f"{port.host_ip}:{port.host_port}/{port.protocol}"
    if port.protocol not in ("tcp", "udp"):
        raise Unsupported(f"port {name}: only tcp and udp can be published")
    if not 0 < port.host_port < 1 << 16:
        raise Unsupported(f"port {name}: there is no such port")
    try:
        address = str(IPv4Address(port.host_ip)) if port.host_ip else ""
    except AddressValueError as error:
        raise Unsupported(f"port {name}: only IPv4 addresses can be published") from error
    backends = tuple((str(IPv4Address(target)), int(number)) for target, number in port.backends)
    return Port("" if address == "0.0.0.0" else address, port.host_port, port.protocol, backends)

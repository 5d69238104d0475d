"""The network stack: everything that the engine does with networks goes through here."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from agent.errors import Conflict, HoldfastError, NotFound
from agent.kernel.netlink import NETFILTER, ROUTE, Listener, NetlinkSocket
from agent.kernel.nftables import Nftables
from agent.network.addresses import choose_subnet, compute_gateway
from agent.network.attachments import Attachments
from agent.network.balancer import Balancer
from agent.network.bridges import Bridges
from agent.network.faults import explained
from agent.network.forwarding import Forwarding
from agent.network.identity import Identity
from agent.network.model import NetworkInfo, PortConflict, PortLike, Sandbox
from agent.network.names import NameTable
from agent.network.nameservice import NameService
from agent.network.reactor import Reactor
from agent.network.records import HostRecord, NetworkRecords
from agent.network.sandboxes import Place
from agent.network.tablewatch import TableWatch
from agent.store.database import Database

_LEFTOVER_SECONDS = 3.0
_LINK_GROUP = 1


class NetworkStack:
    """All networks of one agent. Thread-safe and blocking; call ``recover`` before anything else.

    ``upstreams`` replaces the name servers of the host's resolv.conf (address, port).
    """

    def __init__(
        self,
        instance: str,
        run_root: Path,
        database: Database,
        *,
        upstreams: tuple[tuple[str, int], ...] | None = None,
    ) -> None:
        self._identity = Identity(instance)
        self._directory = run_root / "netns"
        self._lock = threading.RLock()
        self._infos: dict[str, NetworkInfo] = {}
        self._service_names: dict[str, dict[str, tuple[str, ...]]] = {}
        self._host = HostRecord()
        self._closed = False
        self._records = NetworkRecords(database)
        self._names = NameTable()
        with explained("the network stack cannot start"):
            self._netlink = NetlinkSocket(ROUTE)
            self._conntrack = NetlinkSocket(NETFILTER)
            self._nftables = Nftables()
        self._reactor = Reactor()
        self._bridges = Bridges(self._identity, self._netlink)
        self._forwarding = Forwarding(self._identity, self._netlink, self._records)
        self._balancer = Balancer(self._identity, self._nftables, self._conntrack, self._records)
        with explained("the network stack cannot start"):
            self._table_watch = TableWatch(self._identity.table, self._balancer, self._reactor)
        self._attachments = Attachments(self._identity, self._netlink, self._records, self._names, self._directory)
        self._name_service = NameService(run_root, self._names, self._reactor, upstreams)
        self._reactor.start()

    def recover(self, live_ids: Iterable[str]) -> None:
        """Bring order after a start of whatever kind: keep the sandboxes of ``live_ids``, remove all other leftovers.

        Networks come back as they were, with their subnets, names and published ports. Raises NetworkFailed.
        """
        with self._lock, explained("the networks cannot be recovered"):
            self._infos = self._records.load_networks()
            self._name_service.recover(self._infos.values())
            self._bridges.sweep({info.bridge for info in self._infos.values()})
            self._attachments.recover(frozenset(live_ids))
            if self._infos:
                self._host = self._forwarding.ensure()
                self._bridges.ensure_rules()
            self._service_names = self._records.load_service_names()
            live = self._attachments.live_addresses()
            self._balancer.recover(self._infos.values(), self._host.links, live)
            for info in self._infos.values():
                self._put_in_place(info)
                self._names.add_network(info)
                self._put_names(info.name, live)
            self._retire()
            if self._infos:
                self._name_service.start()
        self._reactor.call_soon(self._sweep_later)
        self._table_watch.check()

    @property
    def names_fault(self) -> str:
        """Why names are not answered at the moment, in all networks or in some; empty when they are."""
        return self._name_service.fault

    def watch_names(self, callback: Callable[[], None]) -> None:
        """Call back, in a thread of ours, whenever ``names_fault`` may have changed."""
        self._name_service.watch(callback)

    def ensure_network(self, name: str, *, internal: bool = False) -> NetworkInfo:
        """Make a network exist and be whole; one that exists keeps its subnet.

        Raises Conflict when it exists with another ``internal``, AddressesExhausted, NetworkFailed.
        """
        with self._lock, explained(f"network {name} cannot be made"):
            info = self._infos.get(name)
            if info is not None:
                if info.internal != internal:
                    raise Conflict(
                        f"network {name} is {'' if info.internal else 'not '}internal", hint="remove it first"
                    )
                self._put_in_place(info)
                self._name_service.add(info)
                return info
            subnet = choose_subnet(self._identity.instance, self._bridges.observe_taken())
            bridge = self._bridges.free_name([known.bridge for known in self._infos.values()])
            info = NetworkInfo(name, bridge, str(subnet), compute_gateway(subnet), internal)
            self._records.save_network(info)
            self._infos[name] = info
            try:
                self._host = self._forwarding.ensure()
                self._bridges.ensure_rules()
                self._balancer.set_networks(self._infos.values(), self._host.links)
                self._put_in_place(info)
                self._name_service.add(info)
            except BaseException:
                with contextlib.suppress(OSError, HoldfastError):
                    self._remove(info)
                raise
            self._name_service.start()
            return info

    def _put_in_place(self, info: NetworkInfo) -> None:
        index = self._bridges.ensure(info)
        self._attachments.add_place(Place(info, index, self._bridges.find_mtu(info.bridge)))

    def remove_network(self, name: str) -> None:
        """Remove a network with all that belongs to it; an absent one is fine. Raises NetworkInUse."""
        with self._lock, explained(f"network {name} cannot be removed"):
            info = self._infos.get(name)
            if info is not None:
                self._remove(info)
                self._retire()

    def _retire(self) -> None:
        """With the last network go its name server and the rules that only networks need; the next one brings them
        back."""
        if self._infos:
            return
        self._name_service.quit()
        if self._balancer.remove_if_idle():
            self._bridges.remove_rules()
            self._forwarding.restore()

    def _remove(self, info: NetworkInfo) -> None:
        self._attachments.remove_place(info.name)
        self._name_service.remove(info)
        self._service_names.pop(info.name, None)
        self._bridges.remove(info)
        del self._infos[info.name]
        self._balancer.set_networks(self._infos.values(), self._host.links)
        self._records.delete_network(info.name)

    def networks(self) -> tuple[NetworkInfo, ...]:
        """Every network, by name; from memory."""
        with self._lock:
            return tuple(self._infos[name] for name in sorted(self._infos))

    def attach(
        self,
        container_id: str,
        hostname: str,
        attachments: Sequence[tuple[str, Sequence[str]]],
        *,
        names: Sequence[str] = (),
        pinned: bool = True,
    ) -> Sandbox:
        """A network sandbox for a container that joins ``attachments`` (network, aliases); none: loopback only.

        It answers to its host name, its short id and ``names`` in every network, to the aliases in theirs. A
        container that has a sandbox gets the same again. Unless ``pinned`` it still needs ``save`` and ``pin``, and
        ``let_go`` when its process has entered. Raises NotFound, AddressesExhausted, NetworkFailed.
        """
        return self._attachments.attach(container_id, hostname, attachments, names, pinned=pinned)

    def save(self, container_id: str) -> None:
        """Write a container's sandbox down, in the transaction that is open. Raises HoldfastError."""
        self._attachments.save(container_id)

    def pin(self, container_id: str) -> None:
        """Let a container's sandbox outlive this process, and answer to its names. Raises NetworkFailed."""
        self._attachments.pin(container_id)

    def let_go(self, container_id: str) -> None:
        """Its process has entered a sandbox: hold it no longer."""
        self._attachments.let_go(container_id)

    def detach(self, container_id: str) -> None:
        """Take a container's sandbox, addresses and names away; an unknown id is fine."""
        self._attachments.detach(container_id)

    def prepare(self, network: str, count: int) -> None:
        """Say that ``count`` containers will be attached soon: their sandboxes are made ahead, in the background."""
        with self._lock:
            if network not in self._infos:
                raise NotFound(f"there is no network {network}")
        self._attachments.prepare(network, count)

    def publish(self, ports: Iterable[PortLike]) -> tuple[HoldfastError, ...]:
        """Replace the whole balancer map in one transaction; a port without backends refuses connections.

        Ports that something else on the host holds are left alone and tried again every few seconds: they are
        returned, as PortConflict, as are ports that cannot be published at all (Unsupported). Raises NetworkFailed.
        """
        problems = self._balancer.publish(ports)
        self._table_watch.check()
        return problems

    @property
    def routing_table(self) -> int:
        """The number of the routing table that leads to this agent's containers."""
        return self._identity.routing_table

    @property
    def conflicts(self) -> tuple[PortConflict, ...]:
        """The published ports that something else holds at the moment."""
        return self._balancer.conflicts

    def set_service_names(self, network: str, names: Mapping[str, Iterable[str]]) -> None:
        """Replace a network's service names; a name without addresses is known, and has no answer.

        Names of a network that is gone are forgotten.
        """
        with self._lock:
            wanted = {name: tuple(addresses) for name, addresses in names.items()}
            if network not in self._infos or wanted == self._service_names.get(network):
                return
            self._service_names[network] = wanted
            self._records.save_service_names(network, wanted)
            self._names.set_services(network, wanted)

    def _put_names(self, network: str, live: frozenset[str]) -> None:
        names = self._service_names.get(network, {})
        self._service_names[network] = {n: tuple(a for a in addresses if a in live) for n, addresses in names.items()}
        self._names.set_services(network, self._service_names[network])

    def names(self, network: str) -> dict[str, tuple[str, ...]]:
        """The service names of a network with their addresses."""
        with self._lock:
            return dict(self._service_names.get(network, {}))

    def close(self) -> None:
        """Stop, and leave everything in the kernel working: sandboxes, rules and published ports."""
        if self._closed:
            return
        self._closed = True
        self._attachments.close()
        self._balancer.close()
        self._name_service.close()
        self._reactor.end()
        self._table_watch.close()
        self._nftables.close()
        self._netlink.close()
        self._conntrack.close()

    def down(self) -> None:
        """Remove every network, sandbox, link, rule and record of this agent; its containers must have ended."""
        with self._lock, explained("the networks cannot be removed"):
            for container in self._attachments.containers():
                self._attachments.detach(container)
            for info in tuple(self._infos.values()):
                self._remove(info)
            self._name_service.quit()
            self._balancer.remove()
            self._bridges.remove_rules()
            self._wait_ports_gone()
            self._forwarding.restore()
            self._records.clear()
            with contextlib.suppress(OSError):
                self._directory.rmdir()

    def _wait_ports_gone(self) -> None:
        """The kernel takes links away a moment after their namespace; one that something still holds is deleted."""
        news = Listener(ROUTE, [_LINK_GROUP])
        try:
            deadline = time.monotonic() + _LEFTOVER_SECONDS
            while (left := self._bridges.ports()) and (wait := deadline - time.monotonic()) > 0:
                select.select([news], [], [], wait)
                while news.read():
                    pass
        finally:
            news.close()
        for port in left:
            self._bridges.delete_port(port)

    def _sweep_later(self) -> None:
        self._reactor.call_later(_LEFTOVER_SECONDS, self._sweep_ports)

    def _sweep_ports(self) -> None:
        """Delete bridge ports that belong to nobody: their namespace was held by something when we let go of it."""
        ports = self._bridges.ports()
        used = self._attachments.used_addresses()
        for port in ports:
            if str(self._identity.address_of(port)) not in used:
                self._bridges.delete_port(port)

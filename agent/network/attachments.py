"""Gives containers their sandboxes and takes them back; knows every sandbox of this agent."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path

from agent.errors import HoldfastError, NotFound, Refused
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.netns import pin_namespace, unpin_namespace
from agent.network.addresses import AddressPool
from agent.network.faults import explained
from agent.network.identity import Identity
from agent.network.model import NetworkInfo, NetworkInUse, Sandbox
from agent.network.names import NameTable
from agent.network.ready import Ready, ReadyPool
from agent.network.records import NetworkRecords, SandboxRecord
from agent.network.sandboxes import Namespace, Place, Plug, SandboxMaker

_CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
Wanted = Sequence[tuple[str, Sequence[str]]]


class Attachments:
    """Thread-safe; making a sandbox blocks no other caller."""

    def __init__(
        self, identity: Identity, netlink: NetlinkSocket, records: NetworkRecords, names: NameTable, directory: Path
    ) -> None:
        self._directory = directory
        self._records = records
        self._names = names
        self._maker = SandboxMaker(identity, netlink)
        self._ready = ReadyPool(self._make_ready, self._scrap)
        self._lock = threading.Lock()
        self._places: dict[str, Place] = {}
        self._addresses: dict[str, AddressPool] = {}
        self._sandboxes: dict[str, SandboxRecord] = {}
        self._left: list[SandboxRecord] = []
        self._held: dict[str, Namespace] = {}

    def recover(self, live: frozenset[str]) -> None:
        """Load what is known, forget the sandboxes of the dead, and start making sandboxes ahead."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = self._records.load_sandboxes()
        for path in self._directory.iterdir():
            if path.name not in live or path.name not in known:
                unpin_namespace(path)
        dead = [container for container in known if container not in live]
        self._left = [known[container] for container in dead]
        if dead:
            self._records.delete_sandboxes(dead)
        for container in live & known.keys():
            self._sandboxes[container] = known[container]
            self._names.add_container(known[container])
        self._ready.start()

    def add_place(self, place: Place, *, prepare: bool = True) -> None:
        """Know a network; sandboxes for it are made ahead from now on."""
        name = place.info.name
        with self._lock:
            self._places[name] = place
            if name not in self._addresses:
                used = [r.addresses[name] for r in self._sandboxes.values() if name in r.addresses]
                pool = self._addresses[name] = AddressPool(IPv4Network(place.info.subnet), used, time.monotonic)
                for record in self._left:
                    if name in record.addresses:
                        pool.rest(record.addresses[name])
        if prepare:
            self._ready.want(name)

    def remove_place(self, name: str) -> None:
        """Forget a network. Raises NetworkInUse while containers are attached."""
        with self._lock:
            users = sorted(r.hostname for r in self._sandboxes.values() if name in r.addresses)
            if users:
                raise NetworkInUse(f"network {name} is in use by {', '.join(users[:5])}", hint="remove them first")
            self._places.pop(name, None)
        self._ready.drop(name)
        with self._lock:
            self._addresses.pop(name, None)

    def prepare(self, network: str, count: int) -> None:
        """Expect ``count`` containers on a network soon."""
        self._ready.want(network, count)

    def live_addresses(self) -> frozenset[str]:
        """Every address that a container has."""
        with self._lock:
            return frozenset(a for record in self._sandboxes.values() for a in record.addresses.values())

    def used_addresses(self) -> frozenset[str]:
        """Every address that a container has, or that a sandbox made ahead or in the making will bring."""
        with self._lock:
            return frozenset(address for pool in self._addresses.values() for address in pool.used())

    def containers(self) -> tuple[str, ...]:
        """The ids of all attached containers."""
        with self._lock:
            return tuple(self._sandboxes)

    def attach(
        self, container: str, hostname: str, wanted: Wanted, names: Sequence[str] = (), *, pinned: bool = True
    ) -> Sandbox:
        """A sandbox for a container, again the same when it has one. On any error nothing is left.

        Unless ``pinned`` it is lasting, known by its names and there at ``netns`` only after ``save`` and ``pin``;
        until ``let_go`` it is held, by ``entry``.
        """
        if not _CONTAINER_ID.match(container):
            raise Refused(f"not a container id: {container!r}")
        existing = self._find(container)
        if existing is not None:
            return self._describe(existing)
        places = self._order([network for network, _ in wanted])
        with contextlib.ExitStack() as undo:
            namespace, addresses = self._build(places, undo)
            self._held[container] = namespace
            undo.callback(self._unpin, container)
            aliases = {network: tuple(extra) for network, extra in wanted}
            record = SandboxRecord(container, hostname, addresses, aliases, tuple(names))
            with self._lock:
                gone = [place.info.name for place in places if place.info.name not in self._places]
                if not gone:
                    self._sandboxes[container] = record
            if gone:
                raise NotFound(f"network {gone[0]} was removed meanwhile")
            undo.pop_all()
        if pinned:
            self._finish(container)
        return self._describe(record)

    def _finish(self, container: str) -> None:
        try:
            self.save(container)
            self.pin(container)
        except BaseException:
            self.detach(container)
            raise
        self.let_go(container)

    def save(self, container: str) -> None:
        """Write down a sandbox that is held. Raises HoldfastError."""
        with self._lock:
            record = self._sandboxes[container]
        self._records.save_sandbox(record)

    def pin(self, container: str) -> None:
        """Give a sandbox that is held its lasting name, and the container its names. Raises HoldfastError."""
        with explained(f"container {container} gets no network"):
            self._directory.mkdir(mode=0o700, exist_ok=True)  # ``down`` took it away
            pin_namespace(self._held[container].descriptor, self._directory / container)
        with self._lock:
            record = self._sandboxes[container]
        self._names.add_container(record)

    def let_go(self, container: str) -> None:
        """Hold a sandbox no longer."""
        namespace = self._held.pop(container, None)
        if namespace is not None:
            namespace.close()
        self._ready.replenish()

    def _unpin(self, container: str) -> None:
        self.let_go(container)
        unpin_namespace(self._directory / container)

    def detach(self, container: str) -> None:
        """Take a container's sandbox away; unknown ones are fine. Its links go when its last process has gone.

        Raises HoldfastError when its record cannot be removed; it may be asked for again.
        """
        with self._lock:
            record = self._sandboxes.pop(container, None)
        if record is None:
            return
        self._names.remove_container(record)
        self._unpin(container)
        try:
            self._records.delete_sandboxes([container])
        except HoldfastError:
            with self._lock:
                self._sandboxes[container] = record
            raise
        for network, address in record.addresses.items():
            self._give_back(network, address)

    def close(self) -> None:
        """Make no more sandboxes ahead, and let go of those made."""
        self._ready.close()

    def _find(self, container: str) -> SandboxRecord | None:
        with self._lock:
            return self._sandboxes.get(container)

    def _describe(self, record: SandboxRecord) -> Sandbox:
        with self._lock:
            infos: Mapping[str, NetworkInfo] = {name: self._places[name].info for name in record.addresses}
        gateways = {name: info.gateway for name, info in infos.items()}
        first = next(iter(record.addresses), "")
        netns, namespace = self._directory / record.container, self._held.get(record.container)
        return Sandbox(
            netns,
            netns if namespace is None else Path(f"/proc/{os.getpid()}/fd/{namespace.descriptor}"),
            dict(record.addresses),
            gateways,
            gateways.get(first, ""),
            record.addresses.get(first, ""),
        )

    def _order(self, networks: Iterable[str]) -> list[Place]:
        """The first network with a way out comes first: it is eth0 and the default route."""
        with self._lock:
            missing = [name for name in networks if name not in self._places]
            if missing:
                raise NotFound(f"there is no network {missing[0]}")
            places = [self._places[name] for name in dict.fromkeys(networks)]
        primary = next((place for place in places if not place.info.internal), None)
        return sorted(places, key=lambda place: place is not primary)

    def _build(self, places: Sequence[Place], undo: contextlib.ExitStack) -> tuple[Namespace, dict[str, str]]:
        addresses: dict[str, str] = {}
        if not places:
            with explained("no network namespace could be made"):
                return self._maker.make(None), addresses
        first = places[0].info.name
        ready = self._ready.take(first) or self._make_ready(first)
        addresses[first] = ready.address
        undo.callback(self._give_back, first, ready.address)
        for number, place in enumerate(places[1:], start=1):
            name = place.info.name
            addresses[name] = self._take_address(name)
            undo.callback(self._give_back, name, addresses[name])
            with explained(f"network {name}"), _closed_on_error(ready.namespace):
                self._maker.add(ready.namespace, Plug(number, place, addresses[name], default=False))
        return ready.namespace, addresses

    def _make_ready(self, network: str) -> Ready:
        with self._lock:
            place = self._places.get(network)
        if place is None:
            raise NotFound(f"there is no network {network}")
        address = self._take_address(network)
        try:
            with explained(f"network {network}"):
                plug = Plug(0, place, address, default=not place.info.internal)
                return Ready(address, self._maker.make(plug))
        except BaseException:
            self._give_back(network, address)
            raise

    def _scrap(self, network: str, ready: Ready) -> None:
        ready.namespace.close()
        self._give_back(network, ready.address)

    def _take_address(self, network: str) -> str:
        with self._lock:
            pool = self._addresses.get(network)
            if pool is None:
                raise NotFound(f"there is no network {network}")
            return pool.take()

    def _give_back(self, network: str, address: str) -> None:
        with self._lock:
            pool = self._addresses.get(network)
            if pool is not None:
                pool.give_back(address)


@contextlib.contextmanager
def _closed_on_error(namespace: Namespace) -> Iterator[None]:
    try:
        yield
    except BaseException:
        namespace.close()
        raise

"""Who is called what in which network: containers by host name and alias, services by name. In memory only."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network

from agent.network.model import NetworkInfo
from agent.network.records import SandboxRecord

_SHORT_ID = 12


class NameTable:
    """Thread-safe. Names are matched without regard to case or a final dot, and only within the asker's networks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._networks: dict[str, NetworkInfo] = {}
        self._containers: dict[str, dict[str, dict[str, str]]] = {}
        self._services: dict[str, dict[str, tuple[str, ...]]] = {}
        self._members: dict[str, SandboxRecord] = {}
        self._turn = 0

    def add_network(self, info: NetworkInfo) -> None:
        """Know a network."""
        with self._lock:
            self._networks[info.name] = info

    def remove_network(self, name: str) -> None:
        """Forget a network and every name in it."""
        with self._lock:
            for table in (self._networks, self._containers, self._services):
                table.pop(name, None)

    def add_container(self, record: SandboxRecord) -> None:
        """Know a container under its host name, short id, extra names and the aliases of each network."""
        with self._lock:
            for network, address in record.addresses.items():
                self._members[address] = record
                table = self._containers.setdefault(network, {})
                for name in _names(record, network):
                    table.setdefault(name, {})[record.container] = address

    def remove_container(self, record: SandboxRecord) -> None:
        """Forget a container's names."""
        with self._lock:
            for network, address in record.addresses.items():
                if self._members.get(address) == record:
                    del self._members[address]
                table = self._containers.get(network, {})
                for name in _names(record, network):
                    holders = table.get(name, {})
                    holders.pop(record.container, None)
                    if not holders:
                        table.pop(name, None)

    def set_services(self, network: str, names: Mapping[str, Iterable[str]]) -> None:
        """Replace a network's service names; one with no address is still known, and hides containers so called."""
        with self._lock:
            self._services[network] = {_fold(name): tuple(addresses) for name, addresses in names.items()}

    def resolve(self, network: str, client: str, name: str) -> tuple[str, ...] | None:
        """The addresses of ``name`` for ``client``, each time another one first; None when nobody is called that."""
        folded = _fold(name)
        with self._lock:
            found: list[tuple[str, ...]] = []
            for where in self._reachable(network, client):
                bare = folded.removesuffix(f".{where.lower()}")
                services = self._services.get(where, {})
                containers = self._containers.get(where, {})
                for candidate in dict.fromkeys((folded, bare)):
                    if candidate in services:
                        found.append(services[candidate])
                    elif candidate in containers:
                        found.append(tuple(containers[candidate].values()))
            if not found:
                return None
            self._turn += 1
            return _rotate(tuple(dict.fromkeys(address for part in found for address in part)), self._turn)

    def reverse(self, network: str, client: str, address: str) -> str | None:
        """The host name of the container that has ``address`` in a network of the client's."""
        with self._lock:
            record = self._members.get(address)
            reachable = self._reachable(network, client)
            if record is None or not any(record.addresses.get(where) == address for where in reachable):
                return None
            return record.hostname

    def is_local(self, address: str) -> bool:
        """Whether an address belongs to any of our subnets: nobody outside could know its name."""
        number = IPv4Address(address)
        with self._lock:
            return any(number in IPv4Network(info.subnet) for info in self._networks.values())

    def is_gateway(self, address: str) -> bool:
        """Whether an address is that of one of our own name servers."""
        with self._lock:
            return any(info.gateway == address for info in self._networks.values())

    def may_forward(self, network: str, client: str) -> bool:
        """Whether the client's questions may leave this host: not when all its networks are internal."""
        with self._lock:
            return any(
                not self._networks[where].internal
                for where in self._reachable(network, client)
                if where in self._networks
            )

    def _reachable(self, network: str, client: str) -> tuple[str, ...]:
        record = self._members.get(client)
        return tuple(record.addresses) if record is not None and network in record.addresses else (network,)


def _names(record: SandboxRecord, network: str) -> set[str]:
    plain = (record.hostname, record.container[:_SHORT_ID], *record.names, *record.aliases.get(network, ()))
    return {_fold(name) for name in plain if name}


def _fold(name: str) -> str:
    return name.rstrip(".").lower()


def _rotate(addresses: tuple[str, ...], turn: int) -> tuple[str, ...]:
    start = turn % len(addresses) if addresses else 0
    return addresses[start:] + addresses[:start]

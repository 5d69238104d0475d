"""Who is called what in which network, as the agent said last. In memory only.

A zone is made of changes, lists as they come in packets; each says the whole of one thing, and may be said again:

    ["network", name, gateway, subnet, internal]        ["no-network", name]
    ["member", id, hostname, {network: address}]        ["no-member", id]
    ["names", id, network, [name, ...]]                 (adds names to a member)
    ["service", network, name, [address, ...]]          ["no-service", network, name]

Names are folded already: lower case, no final dot.
"""

from __future__ import annotations

import _socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Change = list[Any]


class Network:
    """One network: who asks on its gateway asks in it."""

    __slots__ = ("_mask", "_net", "gateway", "internal", "name")

    def __init__(self, name: str, gateway: str, subnet: str, internal: bool) -> None:
        self.name = name
        self.gateway = gateway
        self.internal = internal
        base, _, prefix = subnet.partition("/")
        self._mask = (0xFFFFFFFF << (32 - int(prefix))) & 0xFFFFFFFF
        self._net = _number(base) & self._mask

    def contains(self, address: int) -> bool:
        """Whether an address, as a number, is in its subnet."""
        return address & self._mask == self._net


class Member:
    """A container's place in its networks; ``names`` by network."""

    __slots__ = ("addresses", "hostname", "names")

    def __init__(self, hostname: str, addresses: dict[str, str]) -> None:
        self.hostname = hostname
        self.addresses = addresses
        self.names: dict[str, list[str]] = {}


class Zone:
    """Names are matched without regard to case or a final dot, and only within the asker's networks."""

    def __init__(self) -> None:
        self._networks: dict[str, Network] = {}
        self._gateways: dict[str, str] = {}
        self._members: dict[str, Member] = {}
        self._owners: dict[str, str] = {}
        self._containers: dict[str, dict[str, dict[str, str]]] = {}
        self._services: dict[str, dict[str, tuple[str, ...]]] = {}
        self._turn = 0

    def apply(self, change: Change) -> None:
        """Make one change. Raises LookupError, TypeError, ValueError or OSError for what is none."""
        kind, *rest = change
        if kind == "network":
            self._add_network(*rest)
        elif kind == "member":
            self._add_member(*rest)
        elif kind == "names":
            self._add_names(*rest)
        elif kind == "service":
            network, name, addresses = rest
            self._services.setdefault(network, {})[name] = tuple(addresses)
        elif kind == "no-network":
            self._remove_network(rest[0])
        elif kind == "no-member":
            self._remove_member(rest[0])
        elif kind == "no-service":
            self._services.get(rest[0], {}).pop(rest[1], None)
        else:
            raise ValueError(f"no such change: {kind!r}")

    def _add_network(self, name: str, gateway: str, subnet: str, internal: bool) -> None:
        known = self._networks.get(name)
        if known is not None:
            del self._gateways[known.gateway]
        self._networks[name] = Network(name, gateway, subnet, bool(internal))
        self._gateways[gateway] = name

    def _remove_network(self, name: str) -> None:
        known = self._networks.pop(name, None)
        if known is not None:
            del self._gateways[known.gateway]
        self._containers.pop(name, None)
        self._services.pop(name, None)

    def _add_member(self, container: str, hostname: str, addresses: dict[str, str]) -> None:
        self._remove_member(container)
        self._members[container] = Member(hostname, addresses)
        for address in addresses.values():
            self._owners[address] = container

    def _add_names(self, container: str, network: str, names: list[str]) -> None:
        member = self._members[container]
        address = member.addresses[network]
        member.names.setdefault(network, []).extend(names)
        table = self._containers.setdefault(network, {})
        for name in names:
            table.setdefault(name, {})[container] = address

    def _remove_member(self, container: str) -> None:
        member = self._members.pop(container, None)
        if member is None:
            return
        for address in member.addresses.values():
            if self._owners.get(address) == container:
                del self._owners[address]
        for network, names in member.names.items():
            table = self._containers.get(network, {})
            for name in names:
                holders = table.get(name, {})
                holders.pop(container, None)
                if not holders:
                    table.pop(name, None)

    def network_at(self, gateway: str) -> str | None:
        """The network with this gateway."""
        return self._gateways.get(gateway)

    def resolve(self, network: str, client: str, name: str) -> tuple[str, ...] | None:
        """The addresses of ``name`` for ``client``, each time another one first; None when nobody is called that."""
        folded = name.rstrip(".").lower()
        found: list[tuple[str, ...]] = []
        for where in self._reachable(network, client):
            services = self._services.get(where, {})
            containers = self._containers.get(where, {})
            for candidate in dict.fromkeys((folded, folded.removesuffix(f".{where.lower()}"))):
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
        member = self._members.get(self._owners.get(address, ""))
        if member is None:
            return None
        shared = any(member.addresses.get(where) == address for where in self._reachable(network, client))
        return member.hostname if shared else None

    def is_local(self, address: str) -> bool:
        """Whether an address belongs to any of our subnets: nobody outside could know its name."""
        number = _number(address)
        return any(network.contains(number) for network in self._networks.values())

    def is_gateway(self, address: str) -> bool:
        """Whether an address is one that this name server answers at."""
        return address in self._gateways

    def may_forward(self, network: str, client: str) -> bool:
        """Whether the client's questions may leave this host: not when all its networks are internal."""
        known = (self._networks.get(where) for where in self._reachable(network, client))
        return any(not found.internal for found in known if found is not None)

    def _reachable(self, network: str, client: str) -> tuple[str, ...]:
        member = self._members.get(self._owners.get(client, ""))
        return tuple(member.addresses) if member is not None and network in member.addresses else (network,)


def _number(address: str) -> int:
    return int.from_bytes(_socket.inet_aton(address), "big")


def _rotate(addresses: tuple[str, ...], turn: int) -> tuple[str, ...]:
    start = turn % len(addresses) if addresses else 0
    return addresses[start:] + addresses[:start]

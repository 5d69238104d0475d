"""What the network stack keeps in the database, so that a restart finds everything again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, field

from agent.network.model import NetworkInfo, Port
from agent.store.database import Database
from agent.values import frozen

_NETWORK, _SANDBOX, _PORTS, _NAMES, _HOST = "network", "sandbox", "published", "service_names", "network_host"
_ONLY = "all"


@frozen
class SandboxRecord:
    """A container's place in its networks, in the order of its interfaces (eth0 first)."""

    container: str
    hostname: str
    addresses: Mapping[str, str]
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    names: tuple[str, ...] = ()


@frozen
class HostRecord:
    """What was changed on the host itself: the links that did not forward to each other before."""

    forwarding_was_off: bool = False
    links: tuple[str, ...] = ()


class NetworkRecords:
    """Typed access to the documents; every call is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load_networks(self) -> dict[str, NetworkInfo]:
        """Every network by name."""
        return {name: NetworkInfo(**document) for name, document in self._database.all(_NETWORK).items()}

    def save_network(self, info: NetworkInfo) -> None:
        """Store a network."""
        self._database.put(_NETWORK, info.name, asdict(info))

    def delete_network(self, name: str) -> None:
        """Forget a network and its service names."""
        with self._database.transaction():
            self._database.delete(_NETWORK, name)
            self._database.delete(_NAMES, name)

    def load_sandboxes(self) -> dict[str, SandboxRecord]:
        """Every sandbox by container id."""
        return {
            container: SandboxRecord(
                container,
                document["hostname"],
                document["addresses"],
                {network: tuple(aliases) for network, aliases in document["aliases"].items()},
                tuple(document["names"]),
            )
            for container, document in self._database.all(_SANDBOX).items()
        }

    def save_sandbox(self, record: SandboxRecord) -> None:
        """Store a sandbox."""
        document = {
            "hostname": record.hostname,
            "addresses": dict(record.addresses),
            "aliases": {network: list(aliases) for network, aliases in record.aliases.items()},
            "names": list(record.names),
        }
        self._database.put(_SANDBOX, record.container, document)

    def delete_sandboxes(self, containers: Iterable[str]) -> None:
        """Forget sandboxes."""
        self._database.delete(_SANDBOX, *containers)

    def load_ports(self) -> tuple[Port, ...]:
        """What was published last."""
        document = self._database.get(_PORTS, _ONLY) or {"ports": []}
        return tuple(
            Port(ip, number, protocol, tuple((address, port) for address, port in backends))
            for ip, number, protocol, backends in document["ports"]
        )

    def save_ports(self, ports: Iterable[Port]) -> None:
        """Store what is published."""
        rows = [[port.host_ip, port.host_port, port.protocol, [list(b) for b in port.backends]] for port in ports]
        self._database.put(_PORTS, _ONLY, {"ports": rows})

    def load_service_names(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Service names by network, each with its addresses."""
        return {
            network: {name: tuple(addresses) for name, addresses in document.items()}
            for network, document in self._database.all(_NAMES).items()
        }

    def save_service_names(self, network: str, names: Mapping[str, tuple[str, ...]]) -> None:
        """Store one network's service names."""
        self._database.put(_NAMES, network, {name: list(addresses) for name, addresses in names.items()})

    def load_host(self) -> HostRecord:
        """What was changed on the host."""
        document = self._database.get(_HOST, _ONLY) or {}
        return HostRecord(bool(document.get("forwarding_was_off")), tuple(document.get("links", ())))

    def save_host(self, record: HostRecord) -> None:
        """Store what was changed on the host."""
        self._database.put(_HOST, _ONLY, {"forwarding_was_off": record.forwarding_was_off, "links": list(record.links)})

    def clear(self) -> None:
        """Forget everything."""
        with self._database.transaction():
            for kind in (_NETWORK, _SANDBOX, _PORTS, _NAMES, _HOST):
                self._database.delete(kind, *self._database.all(kind))

"""What the network stack is asked for and what it answers: plain frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Protocol

from agent.errors import Conflict, Stalled, Waiting
from agent.values import frozen


@frozen
class NetworkInfo:
    """One network of this agent. ``gateway`` is the host's address on ``bridge``, where the name server listens too."""

    name: str
    bridge: str
    subnet: str
    gateway: str
    internal: bool = False

    @property
    def prefix(self) -> int:
        """The length of the subnet's prefix."""
        return IPv4Network(self.subnet).prefixlen


@frozen
class Sandbox:
    """A container's network. The first network with a way out is ``eth0``'s, or the first if none has one.

    ``netns`` is a file to enter, ``entry`` one to enter just now, ``addresses`` and ``gateways`` go by network, ``dns``
    is the name server to use and ``address`` the container's main address.
    """

    netns: Path
    entry: Path
    addresses: Mapping[str, str]
    gateways: Mapping[str, str]
    dns: str
    address: str


class PortLike(Protocol):
    """One host address and port and the container addresses and ports behind it (see engine.model.PublishedPort)."""

    @property
    def host_ip(self) -> str:
        """An IPv4 address of the host; empty or 0.0.0.0 means all of them."""

    @property
    def host_port(self) -> int:
        """1 to 65535."""

    @property
    def protocol(self) -> str:
        """tcp or udp."""

    @property
    def backends(self) -> tuple[tuple[str, int], ...]:
        """Container address and port, each getting an equal share."""


@dataclass(frozen=True, order=True)
class Port:
    """A published port, checked: ``host_ip`` is empty for every address of the host."""

    host_ip: str
    host_port: int
    protocol: str
    backends: tuple[tuple[str, int], ...] = ()

    @property
    def key(self) -> tuple[str, int, str]:
        """What may be published only once."""
        return self.host_ip, self.host_port, self.protocol

    def __str__(self) -> str:
        return f"{self.host_ip or '0.0.0.0'}:{self.host_port}/{self.protocol}"


class PortConflict(Conflict):
    """Something else on the host has the port; it is not taken over, and tried again every few seconds."""

    reason = "PortConflict"
    retry_after = 5.0

    def __init__(self, port: Port, message: str) -> None:
        super().__init__(message, hint="stop that process or publish another port")
        self.port = port


class AddressesExhausted(Stalled):
    """No free subnet, or no free address in a network's subnet."""

    reason = "AddressesExhausted"


class NetworkInUse(Conflict):
    """Containers are still attached to the network."""

    reason = "NetworkInUse"


class NetworkFailed(Waiting):
    """The kernel refused a change that may work later."""

    reason = "NetworkFailed"

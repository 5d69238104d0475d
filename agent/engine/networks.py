"""Networks as the engine's callers see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agent.engine.model import PublishedPort
from agent.network.model import NetworkInfo, PortConflict
from agent.network.stack import NetworkStack


class Networks:
    """Bridges, published ports and names. Thread-safe and blocking."""

    def __init__(self, stack: NetworkStack) -> None:
        self._stack = stack

    def list(self) -> tuple[NetworkInfo, ...]:
        """Every network, from memory."""
        return self._stack.networks()

    def ensure(self, name: str, *, internal: bool = False) -> NetworkInfo:
        """Make the network exist and be whole. Raises HoldfastError."""
        return self._stack.ensure_network(name, internal=internal)

    def remove(self, name: str) -> None:
        """Remove a network with no container on it; an absent one is fine. Raises HoldfastError."""
        self._stack.remove_network(name)

    def publish(self, ports: Sequence[PublishedPort]) -> dict[tuple[str, int, str], str]:
        """Replace the whole balancer map; a port without backends refuses connections.

        Returns why each port is not published that something else on the host has. Raises HoldfastError for what
        can never be published, and when the kernel refuses.
        """
        refused: dict[tuple[str, int, str], str] = {}
        for problem in self._stack.publish(ports):
            if not isinstance(problem, PortConflict):
                raise problem
            port = problem.port
            refused[port.host_ip or "0.0.0.0", port.host_port, port.protocol] = str(problem)
        return refused

    @property
    def names_fault(self) -> str:
        """Why names are not answered at the moment, in all networks or in some; empty when they are."""
        return self._stack.names_fault

    def watch_names(self, callback: Callable[[], None]) -> None:
        """Call back, in a thread of the engine, whenever ``names_fault`` may have changed."""
        self._stack.watch_names(callback)

    def set_service_names(self, network: str, names: Mapping[str, tuple[str, ...]]) -> None:
        """Replace the service names of one network."""
        self._stack.set_service_names(network, names)

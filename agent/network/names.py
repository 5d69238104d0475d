"""Who is called what in which network, as the name server is to know it: containers and services."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from agent.network.model import NetworkInfo
from agent.network.records import SandboxRecord

if TYPE_CHECKING:
    from agent.network.nameserver.zone import Change

_SHORT_ID = 12
_MAX_NAME = 253
_NAMES_PER_CHANGE = 32

Key = tuple[str, ...]


class NameTable:
    """What is wanted of the name server, thing by thing; thread-safe. A thing's ``changes`` say the whole of it.

    ``on_change`` is called, in the caller's thread, with the keys of what has changed; it must be quick.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes: dict[Key, tuple[Change, ...]] = {}
        self._services: dict[str, dict[str, tuple[str, ...]]] = {}
        self.on_change: Callable[[Iterable[Key]], None] = lambda keys: None

    def add_network(self, info: NetworkInfo) -> None:
        """Know a network."""
        self._put(("network", info.name), ["network", info.name, info.gateway, info.subnet, info.internal])

    def remove_network(self, name: str) -> None:
        """Forget a network and every service name in it."""
        self.set_services(name, {})
        self._drop(("network", name))

    def add_container(self, record: SandboxRecord) -> None:
        """Know a container under its host name, short id, extra names and the aliases of each network."""
        changes: list[Change] = [["member", record.container, record.hostname, dict(record.addresses)]]
        for network in record.addresses:
            names = _compute_names(record, network)
            parts = (names[start : start + _NAMES_PER_CHANGE] for start in range(0, len(names), _NAMES_PER_CHANGE))
            changes += [["names", record.container, network, part] for part in parts]
        self._put(("member", record.container), *changes)

    def remove_container(self, record: SandboxRecord) -> None:
        """Forget a container's names."""
        self._drop(("member", record.container))

    def set_services(self, network: str, names: Mapping[str, Iterable[str]]) -> None:
        """Replace a network's service names; one with no address is still known, and hides containers so called."""
        wanted = {_fold(name): tuple(addresses) for name, addresses in names.items() if len(name) <= _MAX_NAME}
        with self._lock:
            before = self._services.pop(network, {})
            if wanted:
                self._services[network] = wanted
            changed = [name for name in {**before, **wanted} if before.get(name) != wanted.get(name)]
            for name in changed:
                key = ("service", network, name)
                if name in wanted:
                    self._changes[key] = (["service", network, name, list(wanted[name])],)
                else:
                    self._changes.pop(key, None)
        if changed:
            self.on_change([("service", network, name) for name in changed])

    def changes(self, key: Key) -> tuple[Change, ...]:
        """What establishes one thing, or takes it away when it is not known any more."""
        with self._lock:
            return self._changes.get(key) or ([f"no-{key[0]}", *key[1:]],)

    def everything(self) -> Iterator[Change]:
        """What establishes all that is known, from nothing."""
        with self._lock:
            known = tuple(self._changes.values())
        for changes in known:
            yield from changes

    def _put(self, key: Key, *changes: Change) -> None:
        with self._lock:
            self._changes[key] = changes
        self.on_change((key,))

    def _drop(self, key: Key) -> None:
        with self._lock:
            self._changes.pop(key, None)
        self.on_change((key,))


def _compute_names(record: SandboxRecord, network: str) -> list[str]:
    plain = (record.hostname, record.container[:_SHORT_ID], *record.names, *record.aliases.get(network, ()))
    return sorted({_fold(name) for name in plain if name and len(name) <= _MAX_NAME})


def _fold(name: str) -> str:
    return name.rstrip(".").lower()

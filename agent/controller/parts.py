"""What all apps' workers share, and what they remember together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from agent.controller.gate import Gate
from agent.controller.health.checks import Checks
from agent.controller.inventory import Inventory
from agent.controller.journal import Journal
from agent.controller.port import EnginePort, MetricsPort, RecordsPort
from agent.controller.speech import Speech
from agent.controller.telling.telling import Teller
from agent.controller.traffic.publisher import Publisher

SPEC_KIND = "spec"
NETWORK_KIND = "app_network"


class SpecDocuments:
    """The specs that living containers were made from, as JSON text by spec digest; kept across restarts."""

    def __init__(self, records: RecordsPort, journal: Journal) -> None:
        self._journal = journal
        self._texts = {key: str(document["text"]) for key, document in records.all(SPEC_KIND).items()}

    @property
    def texts(self) -> Mapping[str, str]:
        """All of them."""
        return self._texts

    def remember(self, digest: str, text: str) -> None:
        """Keep one."""
        if self._texts.get(digest) != text:
            self._texts[digest] = text
            self._journal.put(SPEC_KIND, digest, {"text": text})

    def keep(self, digests: Iterable[str]) -> None:
        """Forget all but these."""
        for digest in self._texts.keys() - set(digests):
            del self._texts[digest]
            self._journal.put(SPEC_KIND, digest, None)


class NetworkOwners:
    """Which app uses which network: what an app made and no longer wants is removed, unless another app uses it."""

    def __init__(self, records: RecordsPort, journal: Journal) -> None:
        self._journal = journal
        self._owned: dict[str, set[str]] = {}
        for key in records.all(NETWORK_KIND):
            app, _, network = key.partition("/")
            self._owned.setdefault(app, set()).add(network)

    @property
    def apps(self) -> tuple[str, ...]:
        """The apps that own a network."""
        return tuple(app for app, networks in self._owned.items() if networks)

    def of_app(self, app: str) -> frozenset[str]:
        """The networks of an app."""
        return frozenset(self._owned.get(app, ()))

    def is_shared(self, app: str, network: str) -> bool:
        """Whether another app owns it too."""
        return any(network in networks for owner, networks in self._owned.items() if owner != app)

    def add(self, app: str, network: str) -> None:
        """Note that an app is about to make, or use, a network."""
        self._owned.setdefault(app, set()).add(network)
        self._journal.put(NETWORK_KIND, f"{app}/{network}", {"network": network})

    def drop(self, app: str, network: str) -> None:
        """Note that an app does not use it any more."""
        self._owned.get(app, set()).discard(network)
        self._journal.put(NETWORK_KIND, f"{app}/{network}", None)


class HostNames:
    """The names of the networks and volumes there are; read from the engine again only after a change."""

    def __init__(self, engine: EnginePort) -> None:
        self._engine = engine
        self._networks: frozenset[str] | None = None
        self._volumes: frozenset[str] | None = None

    def forget(self) -> None:
        """Something was made or removed."""
        self._networks = self._volumes = None

    @property
    def networks(self) -> frozenset[str]:
        """Every network's name."""
        if self._networks is None:
            self._networks = frozenset(network.name for network in self._engine.networks.list())
        return self._networks

    @property
    def volumes(self) -> frozenset[str]:
        """Every volume's name."""
        if self._volumes is None:
            self._volumes = frozenset(volume.name for volume in self._engine.volumes.list())
        return self._volumes


@dataclass
class Shared:
    """One of each, for all workers. ``changed`` is called when an app's conditions may have changed."""

    engine: EnginePort
    gate: Gate
    journal: Journal
    events: Teller
    metrics: MetricsPort
    clock: Callable[[], float]
    inventory: Inventory
    health: Checks
    publisher: Publisher
    specs: SpecDocuments
    speech: Speech
    owners: NetworkOwners
    names: HostNames
    changed: Callable[[], None]
    suspended: bool = field(default=False)
